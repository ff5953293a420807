class DataError(ValueError):
    """Raised for a file or a table that cannot be used as it is.

    The message names the file and the line, as an editor counts it, or the column, and
    quotes the offending value.
    """
