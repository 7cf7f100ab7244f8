"""Where the wells are, and what follows from it: fault blocks, pads, connectivities, delays, tanks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightcast.sources.generator.config import LEVELS, FieldConfig
from nightcast.sources.generator.network import Bools, Floats, Ints, Network
from nightcast.sources.handover import injector_id

KERNEL_LENGTH = 450.0
"""Metres over which connectivity falls off."""
MIN_CONNECTIVITY = 0.02
WELLS_PER_PAD = 6


@dataclass(frozen=True)
class Layout:
    """The wells of a field. Sources are the injectors, then the producers that will be converted to injection.

    Attributes
    ----------
    producers, sources
        Names, `P01 ..` and `I01 .., P07 (injector) ..`.
    xy, source_xy
        `(J, 2)` and `(I, 2)` positions in metres.
    pad, source_pad
        Pad names.
    block, source_block
        `(J,)` and `(I,)` fault block numbers.
    converted
        Producer index of each converted source, in the order of the last sources.
    """

    producers: tuple[str, ...]
    sources: tuple[str, ...]
    xy: Floats
    source_xy: Floats
    pad: tuple[str, ...]
    source_pad: tuple[str, ...]
    block: Ints
    source_block: Ints
    spacing: float
    converted: tuple[int, ...]


def place_wells(config: FieldConfig, is_new: Bools) -> Layout:
    """Wells on a jittered grid, injectors spread over it, faults across it, about six wells a pad.

    Parameters
    ----------
    is_new
        `(J,)` producers drilled later; they are not converted.
    """
    rng = config.stream("layout")
    count = config.producers + config.injectors
    columns = int(np.ceil(np.sqrt(count)))
    spacing = float(rng.uniform(350, 500))
    row, column = np.divmod(np.arange(count), columns)
    column = np.where(row % 2 == 1, columns - 1 - column, column)  # boustrophedon: neighbours in the list are close
    xy = (np.stack([column, row], axis=1) + rng.uniform(-0.22, 0.22, (count, 2))) * spacing
    xy = np.round(xy - xy.min(axis=0), 1)

    edges = np.linspace(0, count, config.injectors + 1)
    chosen = np.floor(edges[:-1] + rng.uniform(0, 1, config.injectors) * np.diff(edges)).astype(np.int64)
    chosen = np.unique(np.minimum(chosen, count - 1))
    spare = np.setdiff1d(np.arange(count), chosen)  # two strata may share a cell where injectors are dense
    chosen = np.sort(np.concatenate([chosen, spare[: config.injectors - len(chosen)]]))
    rest = np.setdiff1d(np.arange(count), chosen)

    across = rng.uniform(0, np.pi)
    depth = xy @ np.array([np.cos(across), np.sin(across)])
    faults = 3 if count > 100 else 1
    at = (np.arange(1, faults + 1) + rng.uniform(-0.25, 0.25, faults)) / (faults + 1)
    block = np.searchsorted(depth.min() + at * np.ptp(depth), depth).astype(np.int64)
    pads = [f"PAD-{1 + position // WELLS_PER_PAD:02d}" for position in range(count)]

    share = 0.0 if config.variant == "constant_injection" else 0.05
    old = np.flatnonzero(~is_new)
    n_converted = min(round(share * config.producers), max(len(old) - 1, 0))
    converted = tuple(int(j) for j in np.sort(config.stream("conversions").permutation(old)[:n_converted]))

    width = len(str(max(config.producers, config.injectors, 10)))
    producers = tuple(f"P{j + 1:0{width}d}" for j in range(config.producers))
    injectors = tuple(f"I{i + 1:0{width}d}" for i in range(config.injectors))
    wells = np.concatenate([chosen, rest[list(converted)]]).astype(np.int64)
    return Layout(
        producers=producers,
        sources=injectors + tuple(injector_id(producers[j]) for j in converted),
        xy=xy[rest],
        source_xy=xy[wells],
        pad=tuple(pads[cell] for cell in rest),
        source_pad=tuple(pads[cell] for cell in wells),
        block=block[rest],
        source_block=block[wells],
        spacing=spacing,
        converted=converted,
    )


def distances(start: Floats, end: Floats) -> Floats:
    """`(n, m)` distances in metres between `(n, 2)` and `(m, 2)` positions."""
    return np.asarray(np.linalg.norm(start[:, None] - end[None], axis=-1), dtype=np.float64)


def true_connectivity(config: FieldConfig, layout: Layout) -> tuple[Floats, Floats]:
    """Connectivities `(I, J)` and losses `(I,)`; each row sums to one less its loss.

    A distance kernel in anisotropic space, weakened by faults and scattered log-normally; pairs beyond 2.2 spacings
    and weak ones are dropped before the rows are normalised.
    """
    sigma, ratio = LEVELS[config.level]
    rng = config.stream("connectivity")
    azimuth, leak = rng.uniform(0, np.pi), rng.uniform(0.05, 0.25)
    loss = rng.uniform(0.05, 0.35, len(layout.sources))
    scatter = rng.normal(size=(len(layout.sources), len(layout.producers)))

    offset = layout.source_xy[:, None] - layout.xy[None]
    along = offset @ np.array([np.cos(azimuth), np.sin(azimuth)])
    aside = offset @ np.array([-np.sin(azimuth), np.cos(azimuth)])
    effective = np.hypot(along / np.sqrt(ratio), aside * np.sqrt(ratio))
    crossed = np.abs(layout.source_block[:, None] - layout.block[None])
    distance = distances(layout.source_xy, layout.xy)

    # The logarithm keeps the nearest well of a lonely injector from underflowing to nothing.
    log_weight = -((effective / KERNEL_LENGTH) ** 1.5) + crossed * np.log(leak) + sigma * scatter
    itself = np.zeros_like(distance, dtype=bool)
    for position, j in enumerate(layout.converted, start=len(layout.sources) - len(layout.converted)):
        itself[position, j] = True
    distance = np.where(itself, np.inf, distance)
    reach = np.maximum(2.2 * layout.spacing, distance.min(axis=1, keepdims=True))
    log_weight = np.where(distance <= reach, log_weight, -np.inf)
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    budget = (1.0 - loss)[:, None]
    share = budget * weight / weight.sum(axis=1, keepdims=True)
    kept = np.where(share >= np.minimum(MIN_CONNECTIVITY, share.max(axis=1, keepdims=True)), share, 0.0)
    connectivity = budget * kept / kept.sum(axis=1, keepdims=True)
    return connectivity, loss


@dataclass(frozen=True)
class Tanks:
    """A network with the well properties behind it: `tau` in days and `J0` in m3/d/bar, `(J,)` each."""

    network: Network
    tau: Floats
    J0: Floats
    loss: Floats


def make_tanks(config: FieldConfig, layout: Layout) -> Tanks:
    """Draw tank sizes and wire them up."""
    rng = config.stream("tanks")
    n = config.producers
    productivity = rng.lognormal(np.log(1.6), 0.5, n)
    tau = np.clip(rng.lognormal(np.log(60.0), 0.5, n), 15.0, 240.0)
    p_init = rng.normal(200.0, 8.0, n)
    connectivity, loss = true_connectivity(config, layout)
    theta = np.clip(20.0 * (distances(layout.source_xy, layout.xy) / 400.0) ** 2, 3.0, 180.0)
    apart = distances(layout.xy, layout.xy)
    near = (layout.block[:, None] == layout.block[None]) & (apart <= 2.2 * layout.spacing)
    exchange = np.where(near, 0.24 * np.exp(-apart / 300.0), 0.0)
    np.fill_diagonal(exchange, 0.0)
    network = Network(
        capacity=productivity * tau,
        aquifer=0.08 * productivity,
        p_init=p_init,
        connectivity=connectivity,
        theta=theta,
        exchange=exchange,
    )
    return Tanks(network, tau, productivity, loss)
