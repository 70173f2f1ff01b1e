"""The quantiser against its formulas: gradients, running means, shares, dead codes."""

import copy
import threading

import pytest
import torch
from torch import Tensor

from genzoo.nets import quantise
from genzoo.nets.quantise import VectorQuantiser, as_rows, nearest_codes, perplexity, straight_through

K, C = 6, 3


def quantiser(**options: float) -> VectorQuantiser:
    return VectorQuantiser(**{"channels": C, "codes": K, "dead": 0.0} | options)


def maps(n: int = 4) -> Tensor:
    return torch.randn(n, C, 3, 5)


# --- Where a code goes and a gradient comes from.


def test_nearest_codes_are_those_of_all_distances() -> None:
    rows, codebook = torch.randn(200, C), torch.randn(K, C)
    assert torch.equal(nearest_codes(rows, codebook), torch.cdist(rows, codebook).argmin(1))


def test_latents_are_codes_in_their_places() -> None:
    vq, h = quantiser().eval(), maps()
    ids = vq.ids(h)
    assert ids.shape == (4, 3, 5) and ids.dtype == torch.int64
    z = vq(h).z
    for n, i, j in [(0, 0, 0), (3, 2, 4), (1, 2, 0)]:
        assert torch.equal(z[n, :, i, j], vq.codebook[ids[n, i, j]])
    assert torch.equal(vq.latent(h), h)  # the decoder quantises
    assert torch.equal(vq.nearest(h), z) and torch.equal(vq.nearest(z + 1e-3), z)


def test_the_straight_through_gradient_is_the_decoders_own() -> None:
    z, e = maps().requires_grad_(), maps()
    weights = torch.randn_like(e)
    out = straight_through(z, e)
    assert torch.equal(out, e)
    decoder_input = e.clone().requires_grad_()
    for latent in (out, decoder_input):
        (latent.sin() * weights).sum().backward()
    assert torch.equal(z.grad, decoder_input.grad)


def test_nothing_but_the_straight_gradient_passes_without_commitment() -> None:
    vq, h = quantiser(commitment=0.0).eval(), maps().requires_grad_()
    squeezed = vq(h)
    weights = torch.randn_like(h)
    ((squeezed.z * weights).sum() + squeezed.penalty).backward()
    assert torch.equal(h.grad, weights)


def test_gradients_of_both_losses_have_their_closed_forms() -> None:
    """Of beta mean |z - e|^2: 2 beta (z - e) / N; a code's of gamma mean |z - e|^2: the sum over its rows."""
    vq, h = quantiser(commitment=0.3, learning=0.7).double().eval(), maps().double().requires_grad_()
    vq(h).penalty.backward()
    rows, ids = as_rows(h.detach()), vq.ids(h).flatten()
    e = vq.codebook.detach()[ids]
    torch.testing.assert_close(as_rows(h.grad), 2 * 0.3 * (rows - e) / rows.numel(), rtol=0, atol=1e-7)
    for k in range(K):
        expected = 2 * 0.7 * (e - rows)[ids == k].sum(0) / rows.numel()
        torch.testing.assert_close(vq.codebook.grad[k], expected, rtol=0, atol=1e-7)


def test_codes_learn_by_one_way_only() -> None:
    by_loss, by_means = quantiser(learning=1.0), quantiser()
    assert [name for name, _ in by_loss.named_parameters()] == ["codebook"]
    assert not list(by_means.parameters())
    for vq in (by_loss, by_means):
        before = vq.codebook.detach().clone()
        vq.train()(maps())
        assert torch.equal(vq.codebook, before) == (vq is by_loss)


# --- Running means and shares.


def test_codes_follow_the_running_k_means() -> None:
    """N <- d N + (1 - d) n and m <- d m + (1 - d) sum, code = m / N, written out with their own sums."""
    vq, d = quantiser(decay=0.8).double().train(), 0.8
    vq.usage.fill_(1 / K)
    size, total = vq.usage.clone(), vq.codebook * vq.usage[:, None]
    for _ in range(20):
        h = maps().double()
        rows, ids = as_rows(h), vq.ids(h).flatten()
        vq(h)
        for k in range(K):
            size[k] = d * size[k] + (1 - d) * (ids == k).double().mean()
            total[k] = d * total[k] + (1 - d) * rows[ids == k].sum(0) / len(rows)
        torch.testing.assert_close(vq.usage, size, rtol=1e-12, atol=0)
        torch.testing.assert_close(vq.codebook, total / size[:, None], rtol=1e-10, atol=1e-12)
    assert vq.usage.sum().item() == pytest.approx(1)


def test_a_code_out_of_use_stays_and_stays_finite() -> None:
    vq = quantiser(decay=0.1).train()
    vq.codebook[-1] = 1e3
    for _ in range(100):  # its share falls to 1e-100, which float32 does not know
        vq(maps())
    assert vq.usage[-1] == 0
    assert (vq.codebook[-1] == 1e3).all() and vq.codebook.isfinite().all()


def test_nothing_moves_in_evaluation() -> None:
    vq = quantiser(dead=0.5).eval()
    before = {name: value.clone() for name, value in vq.state_dict().items()}
    vq(maps())
    assert all(torch.equal(value, before[name]) for name, value in vq.state_dict().items())


def test_perplexity_counts_codes_in_equal_use() -> None:
    assert perplexity(torch.full((K,), 1 / K)).item() == pytest.approx(K)
    assert perplexity(torch.tensor([0.5, 0.5, 0, 0])).item() == pytest.approx(2)
    assert perplexity(torch.tensor([0.0, 1, 0])).item() == pytest.approx(1)


def test_uniform_use_has_the_perplexity_of_all_codes() -> None:
    vq = quantiser().eval()
    h = vq.codebook[torch.arange(2 * K) % K].view(2, K, 1, C).permute(0, 3, 1, 2)  # each code twice
    assert vq(h).terms["perplexity"].item() == pytest.approx(K, rel=1e-6)
    assert vq(h).penalty == 0


def test_codes_are_drawn_as_often_as_used() -> None:
    vq = quantiser().eval()
    vq.usage.copy_(torch.tensor([0.5, 0.0, 0.2, 0.2, 0.0, 0.1]))
    z = vq.draw(2000, (3, 5), torch.device("cpu"))
    assert z.shape == (2000, C, 3, 5)
    torch.testing.assert_close(vq.shares(vq.ids(z)), vq.usage, rtol=0, atol=0.01)
    assert (vq.shares(vq.ids(z))[[1, 4]] == 0).all()


# --- Dead codes.


def test_the_first_batch_gives_all_codes() -> None:
    vq, h = quantiser(dead=0.1, decay=1.0).train(), maps()
    vq(h)
    rows = {tuple(row) for row in as_rows(h).tolist()}
    assert {tuple(code) for code in vq.codebook.tolist()} <= rows
    torch.testing.assert_close(vq.usage, torch.full((K,), 1 / K))


@pytest.mark.parametrize("learning", [0.0, 1.0])
def test_dead_codes_are_revived_and_no_others(learning: float) -> None:
    vq, h = quantiser(dead=0.1, decay=1.0, learning=learning).train(), maps()
    vq.usage.copy_(torch.tensor([0.3, 0.0, 0.3, 0.4 - 0.0166, 0.0166, 0.0167]))  # 0.1 / 6 = 0.016667
    before = vq.codebook.detach().clone()
    vq(h)
    moved = (vq.codebook != before).any(1)
    assert moved.tolist() == [False, True, False, False, True, False]
    rows = {tuple(row) for row in as_rows(h).tolist()}
    assert {tuple(code) for code in vq.codebook[moved].tolist()} <= rows


def test_revival_brings_all_codes_into_use() -> None:
    """Codes far from every row: without revival one of them stands for all rows, for ever."""
    perplexities = {}
    for dead in (0.0, 0.1):
        vq = VectorQuantiser(C, 32, dead=dead, decay=0.9).train()
        vq.codebook.copy_(100 + torch.randn(32, C))
        vq.usage.fill_(1 / 32)
        for _ in range(60):
            last = vq(torch.randn(16, C, 4, 4))
        perplexities[dead] = last.terms["perplexity"].item()
    assert perplexities[0.0] < 3 and perplexities[0.1] > 20


# --- Sixteen bits, and several processes.


def test_sixteen_bits_around_it_change_no_code() -> None:
    vq, h = VectorQuantiser(C, 512, dead=0.0).eval(), maps()
    ids = vq.ids(h)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vq.ids(h), ids)
        assert vq(h).z.dtype == torch.float32


class Processes:
    """torch.distributed for two threads, each of which has a rank."""

    def __init__(self) -> None:
        self.rank, self.barrier, self.given = threading.local(), threading.Barrier(2, timeout=30), [None, None]

    def exchanged(self, tensor: Tensor) -> list[Tensor]:
        self.given[self.rank.value] = tensor.clone()
        self.barrier.wait()
        given = list(self.given)
        self.barrier.wait()
        return given

    def all_reduce(self, tensor: Tensor) -> None:
        tensor.copy_(sum(self.exchanged(tensor)))

    def broadcast(self, tensor: Tensor, src: int) -> None:
        tensor.copy_(self.exchanged(tensor)[src])

    def run(self, rank: int, vq: VectorQuantiser, batches: list[Tensor]) -> None:
        self.rank.value = rank
        for h in batches:
            vq(h.chunk(2)[rank])


def test_processes_count_their_rows_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both end with the same codes, and with those of one process whose codes revive from the rows of rank 0."""
    started = quantiser(decay=0.5, dead=0.5).train()
    batches = [maps() for _ in range(6)]
    monkeypatch.setattr(torch, "randint", lambda n, size, device: torch.arange(size[0]))  # threads share a generator
    one = copy.deepcopy(started)
    one.revive = lambda rows: VectorQuantiser.revive(one, rows[: len(rows) // 2])
    for h in batches:
        one(h)
    both, processes = [copy.deepcopy(started) for _ in range(2)], Processes()
    monkeypatch.setattr(quantise, "together", lambda: True)
    monkeypatch.setattr(quantise, "dist", processes)
    threads = [threading.Thread(target=processes.run, args=(rank, vq, batches)) for rank, vq in enumerate(both)]
    for step in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            step(thread)
    for name, value in one.state_dict().items():
        assert torch.equal(both[0].state_dict()[name], both[1].state_dict()[name])
        torch.testing.assert_close(both[0].state_dict()[name], value, rtol=1e-5, atol=1e-6)
