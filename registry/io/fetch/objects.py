"""Reading of object stores, by fsspec."""

from __future__ import annotations

from collections.abc import Sequence

import fsspec

from registry.io.fetch.limits import FetchLimits
from registry.io.fetch.prefix import StorePrefix, parse_object, scheme_of
from registry.io.media import MediaError, safe
from registry.samples.json_codec import excerpt

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


class ObjectReader:
    """Reads objects below prefixes, with the credentials that the environment has for the store.

    Thread-safe. Raises `MediaError` if a store needs a package that is not installed.
    """

    def __init__(self, prefixes: Sequence[StorePrefix], limits: FetchLimits) -> None:
        self._prefixes = prefixes
        self._limits = limits
        for prefix in prefixes:
            scheme = scheme_of(prefix.text)
            try:
                fsspec.get_filesystem_class(scheme)
            except ImportError:
                package = _PACKAGES.get(scheme, "adlfs")
                raise MediaError(
                    f"--fetch {prefix.text} needs {package}; run: pip install {package}"
                ) from None

    def read(self, uri: str) -> bytes:
        """Return the content of an object; raises `ValueError`. Blocks."""
        uri = parse_object(uri)
        shown, most = excerpt(safe(uri)), self._limits.size
        if not any(prefix.covers(uri) for prefix in self._prefixes):
            raise ValueError(f"{shown} is below no --fetch prefix, and not fetched")
        try:
            store, path = fsspec.core.url_to_fs(uri)
            properties = store.info(path)
            size = properties.get("size")
            if properties.get("type") == "directory" or not isinstance(size, int):
                raise ValueError(f"{shown} is no object with a size")  # noqa: TRY301  # as the rest
            if size > most:
                raise ValueError(f"{shown} has {size:,} bytes; at most {most:,} are fetched")  # noqa: TRY301
            # A range, also for a whole object: one that has grown meanwhile could be of any size.
            content: bytes = store.cat_file(path, start=0, end=size) if size else b""
        except FileNotFoundError:
            raise ValueError(f"{shown} does not exist") from None
        except PermissionError:
            raise ValueError(f"{shown}: the credentials do not allow to read it") from None
        except ValueError:
            raise
        # Each store has another library, whose errors may quote credentials.
        except Exception as error:  # noqa: BLE001  # and each is a reason not to store the sample
            raise ValueError(f"{shown} cannot be fetched ({type(error).__name__})") from None
        if len(content) != size:
            raise ValueError(f"{shown} has changed while it was fetched; try it again")
        return content
