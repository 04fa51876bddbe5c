"""Bytes from elsewhere: a parser of them may raise anything and print what it read, patient names included. Here it does neither."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from medldm.data.sources import BadCase
from medldm.errors import UserError


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom, whose warnings quote header values, and let it read values that break the standard's rules of form."""
    from pydicom import config

    logger, settings = logging.getLogger("pydicom"), config.settings
    level, mode = logger.level, settings.reading_validation_mode
    logger.setLevel(logging.CRITICAL + 1)
    settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        settings.reading_validation_mode = mode


@contextmanager
def distrust(name: str) -> Iterator[None]:
    """Turn whatever a parser of foreign bytes raises into one refusal that quotes nothing of the file.

    Args:
        name: what messages call the file; a pseudonym.

    Raises:
        BadCase: the block raised anything but a refusal of our own.
    """
    try:
        with quiet():
            yield
    except (BadCase, UserError):
        raise
    except OSError as error:
        raise BadCase(name, "unreadable", f"cannot be read ({error.strerror or type(error).__name__}).") from None
    except Exception as error:  # what damaged bytes make a parser or a decoder raise is not documented anywhere
        raise BadCase(name, "unreadable", f"is damaged or no valid DICOM ({type(error).__name__}).") from None
