"""Classical classifiers: random forest, multinomial logistic regression, and a support vector machine.

scikit-learn fits; what it found is kept as arrays, and numpy predicts from them. Bundles thus hold numbers alone and
do not depend on the library's version.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.arrays import read_arrays, write_arrays
from models.classifier import MIN_ROWS, ClassifierParams
from models.families.tabular_classes import Fitted, Table, TabularClassifier, mean_uniqueness, softmax
from nightcast.contracts.catalog import Capabilities

RIDGE: Final = 1e-6
"""Penalty that settles what the sigmoid's likelihood leaves open."""
BLOCK_ROWS: Final = 8192
"""Rows whose kernel values are held at once."""

Floats = NDArray[np.float64]
Share = Annotated[float, Field(gt=0, le=1)]


# -- random forest ---------------------------------------------------------------------------------------------------


class RandomForestParams(ClassifierParams):
    """Parameters of the random forest; the defaults are the specification's numbers.

    Attributes
    ----------
    trees, depth
        Trees, and their deepest level.
    min_split_rows, min_leaf_rows
        Fewest rows of a node that is split, and of a leaf.
    column_share
        Columns tried at a split: `sqrt` of them, or a share.
    row_share
        Rows drawn for a tree: `uniqueness`, the mean uniqueness of the labels, or a share.
    threads
        Threads of one fit; fits run beside one another, so one each.
    """

    trees: int = Field(default=200, ge=1)
    depth: int = Field(default=10, ge=1, le=30)
    min_split_rows: int = Field(default=20, ge=2)
    min_leaf_rows: int = Field(default=10, ge=1)
    column_share: Literal["sqrt"] | Share = "sqrt"
    row_share: Literal["uniqueness"] | Share = "uniqueness"
    threads: int = Field(default=1, ge=1)


@dataclass(frozen=True)
class Forest:
    """Trees laid end to end.

    Attributes
    ----------
    root
        `[T]` int32 first node of each tree.
    column, left, right
        `[M]` int32: column a node asks, and the nodes below it; a leaf leads to itself.
    threshold
        `[M]` float64: values up to it go left.
    value
        `[M, K]` float64 class shares in the node.
    importance
        `[F]` mean decrease of impurity.
    depth
        Deepest tree.
    """

    root: NDArray[np.int32]
    column: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    threshold: Floats
    value: Floats
    importance: Floats
    depth: int

    @classmethod
    def of(cls, forest: Any) -> Forest:
        """The trees of a fitted scikit-learn forest."""
        trees = [estimator.tree_ for estimator in forest.estimators_]
        counts = [tree.node_count for tree in trees]
        roots = np.cumsum([0, *counts[:-1]])
        column, left, right, threshold, value = [], [], [], [], []
        for root, tree in zip(roots, trees, strict=True):
            own = np.arange(tree.node_count)
            leaf = tree.children_left == -1
            column.append(np.where(leaf, 0, tree.feature))
            left.append(root + np.where(leaf, own, tree.children_left))
            right.append(root + np.where(leaf, own, tree.children_right))
            threshold.append(np.where(leaf, np.inf, tree.threshold))
            shares = tree.value[:, 0, :]
            value.append(shares / shares.sum(axis=1, keepdims=True))
        return cls(
            root=roots.astype(np.int32),
            column=np.concatenate(column).astype(np.int32),
            left=np.concatenate(left).astype(np.int32),
            right=np.concatenate(right).astype(np.int32),
            threshold=np.concatenate(threshold),
            value=np.concatenate(value),
            importance=np.asarray(forest.feature_importances_, dtype=np.float64),
            depth=max(int(tree.max_depth) for tree in trees),
        )

    def probabilities(self, x: NDArray[np.float32]) -> Floats:
        """`[n, K]`: mean of the leaves' class shares over the trees."""
        total = np.zeros((len(x), self.value.shape[1]))
        every = np.arange(len(x))
        for root in self.root:
            node = np.full(len(x), root, dtype=np.int32)
            for _ in range(self.depth):
                below = x[every, self.column[node]] <= self.threshold[node]
                node = np.where(below, self.left[node], self.right[node])
            total += self.value[node]
        return np.asarray(total / len(self.root))


class RandomForest(TabularClassifier[Forest]):
    """Random forest whose trees draw as few rows as labels are unique (Breiman 2001; Lopez de Prado 2018, 6.2)."""

    Params = RandomForestParams
    params: RandomForestParams

    def fit_horizon(self, train: Table, valid: Table, *, seed: int) -> Fitted[Forest]:
        """Grow the trees; a forest does not stop early, so `valid` is not used."""
        from sklearn.ensemble import RandomForestClassifier

        p = self.params
        share = mean_uniqueness(train) if p.row_share == "uniqueness" else p.row_share
        forest = RandomForestClassifier(
            n_estimators=p.trees,
            max_depth=p.depth,
            min_samples_split=p.min_split_rows,
            min_samples_leaf=p.min_leaf_rows,
            max_features=p.column_share,
            # a tree that draws fewer rows than a split needs would be a root alone
            max_samples=int(np.clip(round(share * len(train)), min(len(train), 10 * p.min_split_rows), len(train))),
            bootstrap=True,
            n_jobs=p.threads,
            random_state=seed,
        )
        forest.fit(train.x, train.y, sample_weight=train.weight)
        return Fitted(Forest.of(forest), rounds=p.trees)

    def class_probabilities(self, model: Forest, x: NDArray[np.float32]) -> Floats:
        """Mean of the trees."""
        return model.probabilities(x)

    def horizon_importance(self, model: Forest) -> Floats:
        """`[F]` mean decrease of impurity."""
        return model.importance

    def write_horizon(self, folder: Path, stem: str, model: Forest) -> dict[str, Any]:
        """Write the trees as safetensors."""
        arrays = {name: value for name, value in vars(model).items() if name != "depth"}
        write_arrays(folder / f"{stem}.safetensors", arrays)
        return {"depth": model.depth}

    def read_horizon(self, folder: Path, stem: str, state: Mapping[str, Any]) -> Forest:
        """Read the trees."""
        return Forest(**read_arrays(folder / f"{stem}.safetensors"), depth=int(state["depth"]))


# -- logistic regression ---------------------------------------------------------------------------------------------


class LogisticParams(ClassifierParams):
    """Parameters of the logistic regression; the defaults are the specification's numbers.

    Attributes
    ----------
    c
        Inverse strength of the L2 penalty on the summed loss.
    iterations
        Most iterations of L-BFGS.
    """

    c: float = Field(default=1.0, gt=0)
    iterations: int = Field(default=500, ge=1)


@dataclass(frozen=True)
class Linear:
    """Linear scores of the classes.

    Attributes
    ----------
    slope
        `[K, F]`.
    offset
        `[K]`.
    """

    slope: Floats
    offset: Floats

    def scores(self, x: NDArray[Any]) -> Floats:
        """`[n, K]` scores, whose softmax are probabilities."""
        return np.asarray(x.astype(np.float64) @ self.slope.T + self.offset)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"slope": self.slope.tolist(), "offset": self.offset.tolist()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Linear:
        """Back from JSON values."""
        return cls(np.asarray(value["slope"], dtype=np.float64), np.asarray(value["offset"], dtype=np.float64))


class Logistic(TabularClassifier[Linear]):
    """Multinomial logistic regression, L2, L-BFGS.

    Importance is the mean absolute coefficient over the classes: columns are standardised, so coefficients compare.
    """

    Params = LogisticParams
    capabilities: ClassVar[Capabilities] = Capabilities(scaling="standard")
    params: LogisticParams

    def fit_horizon(self, train: Table, valid: Table, *, seed: int) -> Fitted[Linear]:
        """Solve to convergence or the last iteration; the problem is convex, so neither seed nor `valid` matter."""
        model, rounds = fit_logistic(
            train.x.astype(np.float64), train.y, train.weight, c=self.params.c, iterations=self.params.iterations
        )
        return Fitted(model, rounds=rounds)

    def class_probabilities(self, model: Linear, x: NDArray[np.float32]) -> Floats:
        """Softmax of the linear scores."""
        return softmax(model.scores(x))

    def horizon_importance(self, model: Linear) -> Floats:
        """`[F]` mean absolute deviation of the coefficients from their mean over the classes."""
        # a shift common to all classes changes no probability
        return np.asarray(np.abs(model.slope - model.slope.mean(axis=0)).mean(axis=0))

    def write_horizon(self, folder: Path, stem: str, model: Linear) -> dict[str, Any]:
        """Coefficients, as JSON."""
        return model.to_json()

    def read_horizon(self, folder: Path, stem: str, state: Mapping[str, Any]) -> Linear:
        """Coefficients, from JSON."""
        return Linear.from_json(state)


def fit_logistic(x: Floats, y: NDArray[np.int64], weight: Floats, *, c: float, iterations: int) -> tuple[Linear, int]:
    """A multinomial logistic regression of classes numbered from 0, and the iterations it took."""
    from sklearn.linear_model import LogisticRegression

    solver = LogisticRegression(C=c, max_iter=iterations)
    with _no_convergence_warning():
        solver.fit(x, y, sample_weight=weight)
    slope, offset = np.asarray(solver.coef_, dtype=np.float64), np.asarray(solver.intercept_, dtype=np.float64)
    if len(slope) == 1:  # two classes: one log-odds, for the second against the first
        slope, offset = np.vstack([np.zeros_like(slope), slope]), np.append(0.0, offset)
    return Linear(slope, offset), int(np.max(solver.n_iter_))


# -- support vector machine ------------------------------------------------------------------------------------------


class SvmParams(ClassifierParams):
    """Parameters of the support vector machine.

    Attributes
    ----------
    landmarks
        Training rows the Gaussian part of the kernel is approximated with (Nystroem).
    gamma
        Width of the Gaussian part of the kernel `exp(-gamma |a - b|^2 / F) + linear a.b / F` over F standardised
        columns.
    linear
        Weight of the linear part, which is exact: among a hundred columns a few hundred landmarks lose a weak trend
        in one of them.
    c
        Inverse strength of the L2 penalty on the summed squared hinge loss.
    iterations
        Most iterations of the solver.
    calibration
        Share of the newest training decisions that the probabilities are learnt from, where there are too few
        validation decisions for it.
    """

    landmarks: int = Field(default=200, ge=2)
    gamma: float = Field(default=0.3, gt=0)
    linear: float = Field(default=1.0, ge=0)
    c: float = Field(default=0.1, gt=0)
    iterations: int = Field(default=1000, ge=1)
    calibration: float = Field(default=0.15, gt=0, lt=0.5)


@dataclass(frozen=True)
class KernelMachine:
    """Scores linear in the kernel values at the landmarks and in the columns, and what makes them probabilities.

    Attributes
    ----------
    landmarks
        `[m, F]`.
    slope
        `[S, m]`, one row per score (one against the rest; a single one for two classes).
    trend
        `[S, F]`, of the kernel's linear part.
    offset
        `[S]`.
    gamma
        Kernel width, already divided by F.
    sigmoid
        What `fit_sigmoid` learnt.
    """

    landmarks: Floats
    slope: Floats
    trend: Floats
    offset: Floats
    gamma: float
    sigmoid: Linear

    def probabilities(self, x: NDArray[np.float32]) -> Floats:
        """`[n, K]` calibrated probabilities."""
        return softmax(self.sigmoid.scores(machine_scores(self, x)))


class Svm(TabularClassifier[KernelMachine]):
    """Support vector machine on Nystroem features, calibrated by Platt's method on later, purged decisions.

    The machine learns on the training decisions, one class against the rest (Williams and Seeger 2001 for the kernel's
    approximation); a sigmoid on its scores, which generalises Platt (1999) to three classes, learns on the validation
    decisions. Where those are too few, the newest training decisions serve, and older ones
    whose labels reach into them are left out.
    """

    Params = SvmParams
    capabilities: ClassVar[Capabilities] = Capabilities(scaling="standard")
    params: SvmParams

    def fit_horizon(self, train: Table, valid: Table, *, seed: int) -> Fitted[KernelMachine]:
        """Fit the machine on earlier decisions and its probabilities on later ones."""
        from sklearn.kernel_approximation import Nystroem
        from sklearn.svm import LinearSVC

        p = self.params
        classes = int(train.y.max()) + 1
        later = valid
        if len(later) < MIN_ROWS or len(np.unique(later.y)) < classes:
            earlier, newest = train.split_in_time(p.calibration)
            if len(earlier) and len(np.unique(earlier.y)) == classes == len(np.unique(newest.y)):
                train, later = earlier, newest
            else:  # a handful of decisions: better calibrated on the machine's own than not at all
                later = train
        x = train.x.astype(np.float64)
        gamma = p.gamma / x.shape[1]
        features = Nystroem(gamma=gamma, n_components=min(p.landmarks, len(x)), random_state=seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="n_components > n_samples")
            phi = features.fit_transform(x)
        share = np.sqrt(p.linear / x.shape[1])
        phi = np.hstack([phi, share * x])
        machine = LinearSVC(C=p.c, dual=False, max_iter=p.iterations, random_state=seed)
        with _no_convergence_warning():
            machine.fit(phi, train.y, sample_weight=train.weight)
        raw = KernelMachine(
            landmarks=np.asarray(features.components_, dtype=np.float64),
            slope=np.asarray(machine.coef_[:, : -x.shape[1]] @ features.normalization_, dtype=np.float64),
            trend=np.asarray(share * machine.coef_[:, -x.shape[1] :], dtype=np.float64),
            offset=np.asarray(machine.intercept_, dtype=np.float64),
            gamma=gamma,
            sigmoid=Linear(np.zeros((1, 1)), np.zeros(1)),
        )
        sigmoid = fit_sigmoid(machine_scores(raw, later.x), later.y, later.weight)
        fitted = replace(raw, sigmoid=sigmoid)
        return Fitted(fitted, rounds=int(np.max(machine.n_iter_)))

    def class_probabilities(self, model: KernelMachine, x: NDArray[np.float32]) -> Floats:
        """Calibrated scores."""
        return model.probabilities(x)

    def write_horizon(self, folder: Path, stem: str, model: KernelMachine) -> dict[str, Any]:
        """Landmarks and coefficients as safetensors."""
        names = ("landmarks", "slope", "trend", "offset")
        arrays = {name: getattr(model, name) for name in names}
        write_arrays(folder / f"{stem}.safetensors", arrays)
        return {"gamma": model.gamma, "sigmoid": model.sigmoid.to_json()}

    def read_horizon(self, folder: Path, stem: str, state: Mapping[str, Any]) -> KernelMachine:
        """Landmarks and coefficients."""
        arrays = read_arrays(folder / f"{stem}.safetensors")
        return KernelMachine(**arrays, gamma=float(state["gamma"]), sigmoid=Linear.from_json(state["sigmoid"]))


def machine_scores(machine: KernelMachine, x: NDArray[np.float32]) -> Floats:
    """`[n, S]` uncalibrated scores of `[n, F]` rows."""
    out = np.empty((len(x), len(machine.offset)))
    own = (machine.landmarks**2).sum(axis=1)
    for start in range(0, len(x), BLOCK_ROWS):
        rows = x[start : start + BLOCK_ROWS].astype(np.float64)
        square = (rows**2).sum(axis=1)[:, None] - 2 * rows @ machine.landmarks.T + own
        kernel = np.exp(-machine.gamma * np.maximum(square, 0.0))
        out[start : start + BLOCK_ROWS] = kernel @ machine.slope.T + rows @ machine.trend.T + machine.offset
    return out


def fit_sigmoid(scores: Floats, y: NDArray[np.int64], weight: Floats) -> Linear:
    """Probabilities `softmax(a s + b)` from `[n, S]` scores: one slope `a > 0` for all classes, one offset for each.

    A free matrix in place of `a` would fit better where scores are strong; where they hardly tell the direction it
    turns their sign about as often as not.
    """
    from scipy.optimize import minimize

    classes = max(2, scores.shape[1])
    # two classes have one score, that of the second against the first
    spread = np.eye(classes)[:, -scores.shape[1] :]
    s = scores @ spread.T
    truth = np.eye(classes)[y]
    share = weight / weight.sum()

    def loss(theta: Floats) -> tuple[float, Floats]:
        a = np.exp(theta[0])
        p = softmax(a * s + theta[1:])
        value = -share @ np.log(np.maximum((p * truth).sum(axis=1), 1e-300))
        slope = (p - truth) * share[:, None]
        return value + RIDGE * (theta @ theta), np.append((slope * s).sum() * a, slope.sum(axis=0)) + 2 * RIDGE * theta

    found = minimize(loss, np.zeros(classes + 1), jac=True, method="L-BFGS-B", bounds=[(-8, 8)] * (classes + 1)).x
    return Linear(np.exp(found[0]) * spread, np.asarray(found[1:], dtype=np.float64))


@contextmanager
def _no_convergence_warning() -> Iterator[None]:
    """Silence what the fit's report says in its count of iterations."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
