import os
from typing import Any


class Exportable:
    """Gives a `keras.Model` the `export` of `fmlayers.export`."""

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Writes the model for use outside of Python, with inputs that are right.

        Args:
            filepath: The folder or file to write.
            format: `"saved_model"` (or `"tf_saved_model"`), `"litert"` or `"onnx"`, by
                `fmlayers.export.export`. Other formats are passed to
                `keras.Model.export`.
            verbose: Whether to print the path. Defaults to `None` (silent).
            input_signature: As of `fmlayers.export.export`.
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
