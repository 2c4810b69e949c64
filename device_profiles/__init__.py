"""Profiles of known devices: TOML files, read with ``resources.files("edgeai.device_profiles")``."""

if __name__ != "edgeai.device_profiles":
    raise ImportError("import this package as `edgeai.device_profiles`")
