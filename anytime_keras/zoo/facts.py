"""Facts about a training and its data that `publish` cannot measure."""

import dataclasses

from anytime_keras import _errors

# Where a data set comes from and on what terms, as its makers say.
SOURCES = {
    "digits": (
        "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), UCI Machine Learning Repository, "
        "test part as bundled with scikit-learn, https://doi.org/10.24432/C50P49",
        "CC BY 4.0",
    ),
    "cifar10": ("Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html", "none stated; asks for citation"),
    "cifar100": ("Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html", "none stated; asks for citation"),
    "tiny_imagenet": (
        "Stanford CS231n, a subset of ImageNet (Deng et al., 2009), http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "ImageNet's terms: research and education, not commercial",
    ),
    "imagenet2012": (
        "Russakovsky et al., 2015, https://www.image-net.org",
        "ImageNet's terms: research and education, not commercial",
    ),
}


@dataclasses.dataclass
class Facts:
    """Facts that `publish` cannot measure; see its `facts`."""

    description: str = ""
    reference: str | None = None
    licence: str = "Apache-2.0"
    source: str | None = None
    data_licence: str | None = None
    epochs: float | None = None
    images: int | None = None
    seed: int = 0
    minutes: float | None = None
    machine: dict | None = None
    note: str | None = None
    weighting: dict | None = None
    before: list | None = None
    after: list | None = None

    @classmethod
    def of(cls, facts):
        known = [field.name for field in dataclasses.fields(cls)]
        for key in facts:
            if key not in known:
                raise ValueError(f"Unknown fact `{key}`. {_errors.nearest(key, known)}")
        return cls(**facts)
