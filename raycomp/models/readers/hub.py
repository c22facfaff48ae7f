# SPDX-License-Identifier: Apache-2.0
"""Fetch models from the Hugging Face hub; without a network that fails in seconds, in one line."""

import re
import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from raycomp.errors import UserError, first_line, logger, nearest
from raycomp.models._timm import get_pretrained_cfg, list_models
from raycomp.models.readers.source import Source, open_source

_SECONDS = 3.0  # to open a connection; the hub's client itself retries for about a minute
_SETTINGS = ["config.json", "preprocessor_config.json"]


def is_id(text: str) -> bool:
    """Return True for `OWNER/NAME`, unless it is a path that exists or a file of weights."""
    known = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text) is not None
    return (
        known and not Path(text).exists() and Path(text).suffix not in (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
    )


def fetched(model: str) -> Path:
    """Return the folder of a model in the local cache of the hub, downloaded if it is not there.

    Raises:
        UserError: if the hub cannot be reached, or has no such model.
    """
    from huggingface_hub import constants, snapshot_download

    for weights in ("*.safetensors", "pytorch_model.bin"):
        patterns = [weights, *_SETTINGS]
        try:
            try:
                folder = Path(snapshot_download(model, allow_patterns=patterns, local_files_only=True))
            except Exception:  # not in the cache: the client raises many types
                _reach(constants.ENDPOINT)
                folder = Path(snapshot_download(model, allow_patterns=patterns, etag_timeout=_SECONDS))
        except Exception as error:
            logger.debug("fetching %s", model, exc_info=True)
            raise UserError(f"{model}: cannot be fetched from {constants.ENDPOINT} ({first_line(error)})") from None
        if any(folder.glob(weights)):
            return folder
    raise UserError(f"{model}: has neither .safetensors nor pytorch_model.bin on the hub")


def _reach(endpoint: str) -> None:
    """Open a connection to the hub, or to the proxy before it.

    Raises:
        OSError: if that takes more than a few seconds or is refused.
    """
    url = urlsplit(endpoint)
    proxy = None if urllib.request.proxy_bypass(url.netloc) else urllib.request.getproxies().get(url.scheme)
    target = urlsplit(proxy) if proxy else url
    port = target.port or (80 if target.scheme == "http" else 443)
    socket.create_connection((target.hostname or "", port), timeout=_SECONDS).close()


def backbone(name: str) -> Source:
    """Fetch the weights that timm has for a model.

    Raises:
        UserError: if timm has no such model, or its weights cannot be fetched.
    """
    stated = get_pretrained_cfg(name)
    held = getattr(stated, "hf_hub_id", None)
    if held is None:
        base = nearest(name, list_models(f"{name[:4]}*") or list_models("vit_*"))
        raise UserError(f"model.backbone {name!r} cannot be fetched: {base}; or give model.backbone_file")
    try:
        return open_source(fetched(str(held)))
    except UserError as error:
        raise UserError(f"model.backbone {name!r} cannot be fetched ({error}); give model.backbone_file") from None
