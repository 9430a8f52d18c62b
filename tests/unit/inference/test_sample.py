from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from artgen.codecs.marking import packet
from artgen.errors import OutOfMemory, RunError, UsageError
from artgen.inference import sample as sampling
from artgen.inference.sample import FORWARD_IMAGES, between, from_bytes, grid, latents, mark_of, sample, to_bytes
from artgen.models.gans.registry import build_generator
from artgen.models.gans.spec import GanFacts, Painter

PARAMS = {"mlp": {"widths": [32, 64]}, "dcgan": {"base": 8}, "r3": {"base": 16, "most": 32, "group": 8}}


def painter(architecture: str = "r3", **changes) -> Painter:
    torch.manual_seed(0)
    plain = {"height": 28, "width": 36, "channels": 3, "latent": 16, "params": PARAMS[architecture]}
    facts = GanFacts(architecture, **{**plain, **changes})
    module = build_generator(facts)
    for weights in module.parameters():  # blocks start as the identity; here they must take part
        torch.nn.init.normal_(weights, std=0.2)
    return Painter(module, facts, "0" * 64)


@pytest.mark.parametrize("architecture", sorted(PARAMS))
def test_a_picture_is_the_same_whatever_is_sampled_beside_it(architecture):
    model = painter(architecture)
    seeds = list(range(FORWARD_IMAGES + 9))
    together = sample(model, seeds)
    assert together.shape == (len(seeds), 28, 36, 3)
    assert together.std() > 1, "flat pictures would prove nothing"
    for some in ([0], [40, 3], seeds[::-1], seeds[5:30]):
        assert np.array_equal(sample(model, some), together[some])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert np.array_equal(sample(model, [7]), together[[7]])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("side", "latent", "base"), [(28, 1024, 16), (64, 64, 64)], ids=["a large product", "a transposed convolution"]
)
def test_the_bits_of_a_pass_do_not_depend_on_the_threads_of_torch(side, latent, base):
    """Of floats, as a difference in the last bit shows in few of the bytes."""
    model = painter("dcgan", height=side, width=side, latent=latent, params={"base": base})
    z_BL, threads, found = latents(range(FORWARD_IMAGES), latent), torch.get_num_threads(), []
    try:
        for number in (1, 2, 3, 5):
            torch.set_num_threads(number)
            found.append(sampling._pass(model, z_BL, None, FORWARD_IMAGES, torch.float32))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_latent_depends_on_its_seed_alone():
    assert torch.equal(latents([5, 9], 100)[1], latents([9], 100)[0])
    assert torch.equal(latents([9], 100)[0], torch.randn(100, generator=torch.Generator().manual_seed(9)))
    assert not torch.equal(latents([5], 100), latents([6], 100))
    assert latents(range(2000), 100).std().item() == pytest.approx(1, abs=0.01)


def test_all_bits_of_a_seed_count():
    small, middle, large = latents([5, 2**32 + 5, 2**40 + 5], 100)
    assert torch.equal(small, torch.randn(100, generator=torch.Generator().manual_seed(5)))
    assert not torch.equal(middle, small)
    assert not torch.equal(large, small)
    assert not torch.equal(large, middle)
    assert middle.dtype == torch.float32
    # These pictures must be the same wherever and whenever they are made.
    assert middle[:3].tolist() == pytest.approx([1.49854, -0.216342, -0.364487], abs=1e-6)
    many = latents(range(2**62, 2**62 + 2000), 100)
    assert many.std().item() == pytest.approx(1, abs=0.01)
    assert many.mean().item() == pytest.approx(0, abs=0.01)
    assert torch.equal(many[7], latents([2**62 + 7], 100)[0])


def test_truncation_goes_to_the_mean_picture():
    model = painter()
    mean = sample(model, [1, 2], truncation=0.0).astype(int)
    assert np.array_equal(mean[0], mean[1])
    near, far = (sample(model, [1], truncation=t).astype(int) for t in (0.2, 1.0))
    assert 0 < np.abs(near - mean[:1]).mean() < np.abs(far - mean[:1]).mean()


def test_classes_are_given_or_follow_from_the_seed():
    model = painter(classes=("a", "b", "c"))
    assert np.array_equal(sample(model, [4, 5]), sample(model, [4, 5], [1, 2]))
    assert not np.array_equal(sample(model, [4], [0]), sample(model, [4], [1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], None, 1.5), "truncation is 1.5"),
        (([1], None, float("nan")), "truncation is nan"),
        (([-1],), "seed -1 is out of range"),
        (([1], [3]), "class 3 is out of range: this model has classes 0 to 1"),
        (([1, 2], [0]), "1 classes are given for 2 seeds"),
    ],
)
def test_values_out_of_range_are_usage_errors(arguments, message):
    with pytest.raises(UsageError, match=message):
        sample(painter(classes=("a", "b")), *arguments)


def test_classes_for_a_model_without_are_refused():
    with pytest.raises(UsageError, match="this model has none"):
        sample(painter(), [1], [0])


def test_a_picture_that_is_not_finite_is_never_written_as_black():
    model = painter("mlp")
    model.module.get_parameter("layers.0.weight")[0, 0] = float("nan")
    with pytest.raises(RunError, match="seed 12 is not finite"):
        sample(model, [12, 13])


def limited(model: Painter, most: int, error: Exception) -> list[int]:
    """The sizes of the passes that `model` is asked for; those of more than `most` pictures fail."""
    sizes: list[int] = []

    def check(_: object, given: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(given[0]))
        if sizes[-1] > most:
            raise error

    model.module.register_forward_pre_hook(check)
    return sizes


def test_where_memory_ends_an_accelerator_takes_half(monkeypatch):
    model, seeds = painter(classes=("a", "b")), range(FORWARD_IMAGES + 5)
    whole = sample(model, seeds)
    sizes = limited(model, 8, torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    with pytest.raises(
        OutOfMemory, match=r"the model 000000000000 \(r3\): no memory on cpu for 32 pictures of 36x28"
    ):
        sample(model, seeds)
    monkeypatch.setattr(sampling, "ONE_SIZE", set())
    sizes.clear()
    found = sample(model, seeds)
    assert sizes == [32, 16, *[8] * 5]
    assert np.abs(found.astype(int) - whole).max() <= 4
    limited(model, 0, RuntimeError("CUDNN_STATUS_ALLOC_FAILED"))
    with pytest.raises(OutOfMemory, match="for 1 pictures"):
        sample(model, seeds)


def test_whatever_else_a_model_fails_with_names_it():
    model = painter()
    limited(model, 0, RuntimeError("device-side assert triggered"))
    with pytest.raises(
        RunError, match=r"the model 000000000000 \(r3\) failed on cpu: device-side assert"
    ) as failed:
        sample(model, [1])
    assert not isinstance(failed.value, OutOfMemory)


def test_the_way_between_two_latents_is_finite_even_from_nothing():
    one, other = latents([1, 2], 16).split(1)
    nothing = torch.zeros_like(one)
    for first, last in (
        (one, other),
        (nothing, other),
        (one, nothing),
        (nothing, nothing),
        (one, one),
        (one, -one),
    ):
        way = [between(first, last, share) for share in (0.0, 0.25, 0.5, 1.0)]
        assert all(z.isfinite().all() for z in way)
        assert way[0] is first
        assert way[3] is last
    lengths = [between(one, other, share).norm().item() for share in (0.0, 0.5, 1.0)]
    assert lengths[1] == pytest.approx((lengths[0] + lengths[2]) / 2)


def test_bytes_survive_the_way_to_floats_and_back():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    values = from_bytes(every)
    assert values.min() == -1
    assert values.max() == 1
    assert np.array_equal(to_bytes(values)[0, ..., 0], every[0, 0].numpy())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_grid_shows_the_pictures_row_by_row(channels):
    pictures = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), np.uint8)
    sheet = np.array(Image.open(io.BytesIO(grid(pictures, 3)))).reshape(8, 18, channels)
    assert np.array_equal(sheet[:4, 12:], pictures[2])
    assert np.array_equal(sheet[4:, 6:12], pictures[4])
    assert (sheet[4:, 12:] == 0).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_grid_says_what_its_mark_says(channels):
    pictures = np.zeros((2, 4, 6, channels), np.uint8)
    mark = mark_of(painter().facts, "in training, 7 images seen", "seeds 0-1")
    with Image.open(io.BytesIO(grid(pictures, mark=mark))) as image:
        assert image.info["xmp"] == packet(mark)
    assert b"trainedAlgorithmicMedia" in packet(mark)
    assert b"artgen r3 generator" in packet(mark)
    with Image.open(io.BytesIO(grid(pictures))) as image:
        assert "xmp" not in image.info


def test_no_seeds_no_pictures():
    assert sample(painter(), []).shape == (0, 28, 36, 3)
