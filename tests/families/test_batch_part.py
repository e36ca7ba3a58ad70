# SPDX-License-Identifier: MIT
"""What a process draws for its part of a batch is its part of what one process draws for all of it."""

import pytest

torch = pytest.importorskip("torch")

from fewbits.families.batch_part import holding_part, is_whole, own_draw, own_uniform_like, whole_count, whole_mean  # noqa: E402


def test_parts_of_a_draw_are_the_draw() -> None:
    def drawn(n: int) -> torch.Tensor:
        torch.manual_seed(3)
        return own_draw(n, lambda m: torch.rand(m, 2))

    parts = []
    for index in range(3):
        with holding_part(index, 3):
            parts.append(drawn(2))
    assert torch.equal(torch.cat(parts), drawn(6)) and is_whole()


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("n_own", [1, 2])
def test_noise_is_the_same_in_any_order_in_memory(order: torch.memory_format, n_own: int) -> None:
    """A convolution's output may be channels last: noise is drawn in that order, too."""
    whole = torch.zeros(2 * n_own, 5, 3, 4).contiguous(memory_format=order)
    torch.manual_seed(4)
    expected = own_uniform_like(whole)
    parts = []
    for index in range(2):
        torch.manual_seed(4)
        with holding_part(index, 2):
            parts.append(own_uniform_like(whole[:n_own].clone(memory_format=torch.preserve_format)))
    assert torch.equal(torch.cat(parts), expected)


def test_alone_means_and_counts_are_ones_own() -> None:
    x = torch.rand(3)
    assert whole_mean(x) is x and whole_count(5) == 5
    with pytest.raises(ZeroDivisionError), holding_part(1, 2):
        assert not is_whole() and whole_count(5) == 10
        raise ZeroDivisionError
    assert is_whole()
