"""torchdistill's own distillation loop, set up as its CIFAR examples do: the yardstick of distill_speed.py.

Everything below `DistillationBox` is torchdistill's code. Its examples ask for 16 loader workers; on a small
machine the caller passes the number that is fastest there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, RandomSampler
from torchvision import transforms

from edgekd.data.split import Split

MEAN, STD = (0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)


class PilImages(Dataset[Any]):
    """A split as torchvision's CIFAR10 gives it: a PIL image through the transforms, and a label."""

    def __init__(self, split: Split, transform: Callable[[Any], torch.Tensor]) -> None:
        self._split, self._transform = split, transform

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        (image,) = self._split.images.get([index])
        return self._transform(Image.fromarray(image)), int(self._split.labels[index])


def training_step(
    split: Split, teacher: nn.Module, student: nn.Module, *, batch_size: int, num_workers: int
) -> Callable[[], None]:
    """One iteration of the loop in torchdistill's `image_classification.py`."""
    from torchdistill.core.distillation import DistillationBox

    box = DistillationBox(
        teacher,
        student,
        {"train": PilImages(split, _transform())},
        _config(batch_size, num_workers),
        torch.device("cpu"),
        None,
        False,
        1,
    )
    box.student_model.train()
    box.teacher_model.eval()
    batches = iter(())

    def step() -> None:
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = iter(box.train_data_loader)
            batch = next(batches)
        images, targets, supplement = batch
        loss = box.forward_process(images, targets, supplement)
        box.post_forward_process(loss=loss)
        loss.item()  # its metric logger reads every loss

    return step


def _transform() -> Callable[[Any], torch.Tensor]:
    return transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def _config(batch_size: int, num_workers: int) -> dict[str, Any]:
    """As configs/sample/cifar10/kd/resnet20_from_*.yaml: KD at temperature 4, SGD with Nesterov momentum."""
    paths = {"student_module_path": ".", "student_module_io": "output"}
    paths |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": batch_size, "num_workers": num_workers, "drop_last": True},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "optimizer": {
            "key": "SGD",
            "kwargs": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True},
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {
                "sub_terms": {
                    "kd": {
                        "criterion": {
                            "key": "KDLoss",
                            "kwargs": {**paths, "temperature": 4.0, "alpha": 0.1, "reduction": "batchmean"},
                        },
                        "weight": 1.0,
                    }
                }
            },
        },
    }
