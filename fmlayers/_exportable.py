import os
from typing import Any


class Exportable:
    """Mixin for a `keras.Model` whose `export` is that of `fmlayers.export`."""

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Exports the model for use outside of Python.

        The exported inputs have the names and dtypes of the model's entries.

        Args:
            filepath: The folder or file to write.
            format: `"saved_model"` (or `"tf_saved_model"`), `"litert"` or `"onnx"`.
                Other formats are passed to `keras.Model.export`.
            verbose: Whether to print the path. Defaults to `None` (silent).
            input_signature: See `fmlayers.export.export`.
            **kwargs: Other arguments of `fmlayers.export.export`.
        """
        from fmlayers.export import export
        from fmlayers.export.exporter import FORMATS

        if format not in FORMATS:
            super().export(  # type: ignore[misc]
                filepath, format, verbose, input_signature, **kwargs
            )
            return
        path = export(self, filepath, format, input_signature=input_signature, **kwargs)
        if verbose:
            print(f"Saved at {path}")
