"""What fetches photos, as options say."""

from pathlib import Path

from fir_tf.cache_folder import cache_folder
from fir_tf.errors import FirError
from fir_tf.options import FetchOptions
from fir_tf.remote.cache import PhotoCache
from fir_tf.remote.fetch import Limits
from fir_tf.remote.photos import RemotePhotos

_GIGABYTE = 1e9


def open_photos(options: FetchOptions) -> RemotePhotos:
    """Opens what fetches photos and keeps them.

    Raises:
        FirError: there is no folder to keep them in.
    """
    cache = PhotoCache(photo_folder(options), options.photo_cache_gb * _GIGABYTE)
    limits = Limits(
        seconds=options.photo_timeout,
        per_host=options.host_connections,
        connections=options.connections,
        allow_private=options.allow_private,
        user_agent=options.user_agent,
    )
    return RemotePhotos(cache, limits)


def photo_folder(options: FetchOptions) -> Path:
    """Returns the Path of the folder that fetched photos are kept in.

    Raises:
        FirError: none is given, and there is no home.
    """
    try:
        return Path(options.photo_cache) if options.photo_cache else cache_folder() / "photos"
    except FirError as error:
        raise FirError(f"{error}, or give --photo_cache") from error
