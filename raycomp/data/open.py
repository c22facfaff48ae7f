"""Open a split of the data set that a search space names."""

from raycomp.data.ade20k import Ade20k
from raycomp.data.camvid import CamVid
from raycomp.data.cityscapes import Cityscapes
from raycomp.data.own import Own
from raycomp.data.samples import Samples
from raycomp.data.streetscenes import StreetScenes
from raycomp.errors import UserError
from raycomp.sections import DataConfig


def open_split(config: DataConfig, split: str, count: int) -> Samples:
    """The samples of a split; `count` is how many scenes streetscenes draws, other sets have their own.

    Raises:
        UserError: for a missing folder or an unknown split.
    """
    if config.dataset == "streetscenes":
        if count < 1:
            raise UserError("train.images is missing: streetscenes draws as many scenes as it says")
        return StreetScenes(split, count)
    if config.root is None:
        raise UserError(f"data.root is missing: {config.dataset} needs the folder of the data set")
    if config.classes is not None:
        return Own(config.root, split, config.classes, config.ignore)
    kinds = {"camvid": CamVid, "ade20k": Ade20k, "cityscapes": Cityscapes}
    return kinds[config.dataset](config.root, split)
