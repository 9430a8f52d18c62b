"""One error tree.

Two questions decide where an error belongs. Can the user mend it before anything starts? Then it is a
`UsageError` (exit code 2). Does it concern one image only? Then it is an `ImageError`: it becomes a
failed row in the manifest and the run goes on. Everything else ends the run with exit code 1.
"""

from __future__ import annotations


class ArtgenError(Exception):
    """Root of every error that artgen raises on purpose."""


class UsageError(ArtgenError):
    """A wrong flag, path, model or config value; nothing was started, or the same command would never end well. Quotes the
    value and the fix.
    """


class RunError(ArtgenError):
    """The run cannot go on; the same command resumes it."""


class StorageError(RunError):
    """The storage refused or lost something that is not a single image (disk full, bucket gone)."""


class OutOfMemory(RunError):
    """The device cannot hold even one tile of the smallest size."""


class ImageError(ArtgenError):
    """One image cannot be done; becomes a `failed` row whose error_type is the class name."""


class SourceUnreadable(ImageError):
    """The bytes cannot be fetched: missing, empty, bad CRC, a broken archive."""


class DecodeFailed(ImageError):
    """The bytes are not a picture that can be decoded: corrupt, truncated, not a raster image."""


class UnsupportedImage(ImageError):
    """A sound file of a kind that artgen does not read."""


class TooManyPixels(ImageError):
    """The header claims more pixels than --max-pixels."""


class ImageTimeout(ImageError):
    """The image took longer than --image-timeout."""


class DecoderCrashed(ImageError):
    """The decoder's process died (a signal, or its memory limit)."""


class RestoreFailed(ImageError):
    """The model returned something that is not a picture (NaN, a wrong shape)."""


class WorkerDied(ImageError):
    """The image killed its worker process, alone and repeatedly."""
