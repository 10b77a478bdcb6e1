"""Whether the Hub can be reached: its own library asks again for half a minute a file, and prints each time."""

from functools import cache
from http.client import HTTPException
from ssl import SSLError
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from huggingface_hub import constants

from tav.errors import one_line

PATIENCE = 2  # seconds until there is a connection


@cache
def unreachable() -> str:
    """Why nothing answers, in which case this process takes what was fetched before and asks no more; "" if it does."""
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE).close()
    except URLError as error:
        if not isinstance(error, HTTPError) and not isinstance(error.reason, SSLError):  # whose certificates may differ
            constants.HF_HUB_OFFLINE = True
            return f"{constants.ENDPOINT}: {one_line(error.reason)}"
    except (HTTPException, OSError):  # somebody is there, who is slow or in trouble
        pass
    return ""
