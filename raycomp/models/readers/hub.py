# SPDX-License-Identifier: Apache-2.0
"""Fetch models from the Hugging Face hub; without a network, fail in seconds with one line."""

import re
import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from raycomp.errors import UserError, first_line, logger, nearest
from raycomp.models._timm import get_pretrained_cfg, list_models
from raycomp.models.readers.source import Source, open_source

_SECONDS = 3.0  # to open a connection; the hub's own client retries for about a minute
_SETTINGS = ["config.json", "preprocessor_config.json"]
_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def is_id(text: str) -> bool:
    """Return True for `OWNER/NAME`, unless it is an existing path or has the suffix of a weights file."""
    path = Path(text)
    well_formed = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text) is not None
    return well_formed and not path.exists() and path.suffix not in _WEIGHTS


def fetched(model: str) -> Path:
    """Return the folder of a model in the local cache of the hub; download it if it is missing.

    Raises:
        UserError: if the hub cannot be reached, or has no such model.
    """
    from huggingface_hub import constants, snapshot_download

    for weights in ("*.safetensors", "pytorch_model.bin"):
        patterns = [weights, *_SETTINGS]
        try:
            try:
                folder = Path(snapshot_download(model, allow_patterns=patterns, local_files_only=True))
            except Exception:  # not in the cache; the client raises many types
                _reach(constants.ENDPOINT)
                folder = Path(snapshot_download(model, allow_patterns=patterns, etag_timeout=_SECONDS))
        except Exception as error:
            logger.debug("fetching %s", model, exc_info=True)
            raise UserError(f"{model}: cannot be fetched from {constants.ENDPOINT} ({first_line(error)})") from None
        if any(folder.glob(weights)):
            return folder
    raise UserError(f"{model}: has neither .safetensors nor pytorch_model.bin on the hub")


def _reach(endpoint: str) -> None:
    """Check that the hub, or the proxy in front of it, accepts connections.

    Raises:
        OSError: if the connection is refused or takes more than a few seconds.
    """
    url = urlsplit(endpoint)
    proxy = None if urllib.request.proxy_bypass(url.netloc) else urllib.request.getproxies().get(url.scheme)
    target = urlsplit(proxy) if proxy else url
    port = target.port or (80 if target.scheme == "http" else 443)
    socket.create_connection((target.hostname or "", port), timeout=_SECONDS).close()


def backbone(name: str) -> Source:
    """Fetch the pretrained weights of a timm model.

    Raises:
        UserError: if timm has no such model, or its weights cannot be fetched.
    """
    model_id = getattr(get_pretrained_cfg(name), "hf_hub_id", None)
    if model_id is None:
        suggestion = nearest(name, list_models(f"{name[:4]}*") or list_models("vit_*"))
        raise UserError(f"model.backbone {name!r} cannot be fetched: {suggestion}; or give model.backbone_file")
    try:
        return open_source(fetched(str(model_id)))
    except UserError as error:
        raise UserError(f"model.backbone {name!r} cannot be fetched ({error}); give model.backbone_file") from None
