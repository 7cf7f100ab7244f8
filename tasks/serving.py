"""The served model: MLflow copies this file beside the bundle and runs it ("models from code").

Input: long rows, `unique_id, ds, y` and the workload's covariates, of whole histories. Output: the forecast from the
last time in the input, one row per series and horizon. The file needs nothing but an installed nightcast.
"""

import warnings
from pathlib import Path

import pandas as pd
import polars as pl
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from models.ensembles.bundle import Bundle, load_own
from nightcast import __version__


class NightcastModel(PythonModel):  # type: ignore[misc]
    """A bundle behind MLflow's interface."""

    def load_context(self, context) -> None:  # type: ignore[no-untyped-def]
        """Check the bundle's hashes and load it."""
        self.bundle = Bundle.load(Path(context.artifacts["bundle"]))
        made = self.bundle.facts["nightcast"]
        if made.split(".")[:2] != __version__.split(".")[:2]:
            raise RuntimeError(
                f"the bundle was made by nightcast {made}, installed is {__version__}; expected the same minor "
                f"version; install nightcast=={made} or retrain"
            )

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Forecast every series of the input from its last known time."""
        rows = pl.from_pandas(pd.DataFrame(model_input))
        dataset, scale = load_own(self.bundle.facts["prepare"])(rows, self.bundle.facts["dataset"])
        view = dataset.view(dataset.as_of)
        predictions, failures = self.bundle.predict_members(view)
        for label, reason in failures.items():
            warnings.warn(f"member {label} left out: {reason}", stacklevel=2)
        return self.bundle.join(predictions, failures, scale).frame.to_pandas()


set_model(NightcastModel())
