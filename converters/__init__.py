"""From a source model to a package that fits the device. Imported as `edgeai.converters`."""

if __name__ != "edgeai.converters":
    raise ImportError("import this package as `edgeai.converters`")
