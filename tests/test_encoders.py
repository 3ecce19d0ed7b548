"""Encoders of every kind give the arrays of the same function."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from linvae.encoders import as_function, load_network


class Encoder(nn.Module):
    """Dropout and a type of its own: both must be respected."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 4, dtype=dtype)
        self.drop = nn.Dropout(0.5)

    def forward(self, y):
        out = self.drop(self.linear(y))
        return out[:, :2], out[:, 2:]


class Output(dict):
    """As the results of pythae: a dictionary with attributes."""

    __getattr__ = dict.__getitem__

    def __bool__(self):
        return True


class PythaeEncoder(nn.Module):
    """Takes images only."""

    def __init__(self):
        super().__init__()
        self.inner = Encoder()

    def forward(self, images):
        assert images.shape[1:] == (1, 2, 3)
        mean, log_variance = self.inner(images.flatten(1))
        return Output(embedding=mean, log_covariance=log_variance)


class PythaeModel(nn.Module):
    """A stand-in: pythae is not installed where these tests run."""

    def __init__(self):
        super().__init__()
        self.model_config = types.SimpleNamespace(input_dim=(1, 2, 3))
        self.encoder = PythaeEncoder()
        self.decoder = nn.Linear(2, 6)


DATA = np.random.default_rng(0).standard_normal((5, 6))

SLICES = ((slice(0, 2), "mean"), (slice(2, 4), "log_variance"))


def by_hand(encoder):
    weight, bias = (p.detach().double().numpy() for p in encoder.linear.parameters())
    out = DATA @ weight.T + bias
    return out[:, :2], out[:, 2:]


def script(path):
    torch.jit.trace(Encoder().eval(), torch.zeros(1, 6)).save(path)
    return path


def exported(path):
    """What torch.export gives: a module that can neither train nor evaluate."""
    any_batch = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(Encoder().eval(), (torch.zeros(3, 6),), dynamic_shapes=any_batch)
    return program.module()


KINDS = {
    "module": lambda path: Encoder().train(),
    "double": lambda path: Encoder(torch.float64),
    "pythae": lambda path: PythaeModel(),
    "exported": exported,
    "torchscript": script,
    "torchscript-name": lambda path: str(script(path)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_arrays(kind, tmp_path):
    network = KINDS[kind](tmp_path / "encoder.pt")
    reference = network if isinstance(network, Encoder) else Encoder()
    found = as_function(network)(DATA)
    for seen, expected in zip(found, by_hand(reference), strict=True):
        assert isinstance(seen, np.ndarray)
        # float32 products of six terms
        np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)


def test_a_module_is_left_as_it_was():
    network = Encoder().train()
    as_function(network)(DATA)
    assert network.training
    assert all(p.grad is None for p in network.parameters())


def test_a_function_stays_itself():
    def encoder(y):
        return y, y

    assert as_function(encoder) is encoder


def test_decoder_of_a_model():
    model = PythaeModel()
    decoded = as_function(model, "decoder")(DATA[:, :2])
    expected = model.decoder(torch.as_tensor(DATA[:, :2]).float()).detach().numpy()
    np.testing.assert_allclose(decoded, expected, rtol=1e-6)


def test_onnx_runs_with_float32_by_name(monkeypatch, tmp_path):
    """A stand-in for onnxruntime, which is not installed where these tests run."""
    given = {}

    class Session:
        def __init__(self, path, providers):
            given["providers"] = providers

        def get_inputs(self):
            return [types.SimpleNamespace(name="target")]

        def run(self, names, batch):
            return [batch["target"][:, :2], batch["target"][:, 2:4]]

    runtime = types.SimpleNamespace(InferenceSession=Session)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    (tmp_path / "e.onnx").touch()
    mean, _ = as_function(tmp_path / "e.onnx")(DATA)
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, DATA[:, :2].astype(np.float32))
    assert given == {"providers": ["CPUExecutionProvider"]}
    with pytest.raises(ValueError, match=r"e\.onnx takes 1 inputs \(target\) and 2 are given"):
        as_function(tmp_path / "e.onnx")(DATA, DATA)


def test_a_fixed_batch_has_a_way_out(monkeypatch, tmp_path):
    """An export for batches of 3; a module takes any, and is told nothing of exports."""

    class Session:
        def __init__(self, path, providers):
            pass

        def get_inputs(self):
            return [types.SimpleNamespace(name="target")]

        def run(self, names, batch):
            raise RuntimeError("Got invalid dimensions for input: target")

    runtime = types.SimpleNamespace(InferenceSession=Session)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    (tmp_path / "e.onnx").touch()
    fixed = torch.export.export(Encoder().eval(), (torch.zeros(3, 6),)).module()
    for network in (tmp_path / "e.onnx", fixed):
        with pytest.raises(
            ValueError, match=r"\(5, 6\).*, or export it with a dynamic batch axis$"
        ):
            as_function(network)(DATA)
    with pytest.raises(ValueError, match=r"a function that reshapes them$"):
        as_function(Encoder())(DATA[:, :3])


def test_a_real_onnx_file(tmp_path):
    """Where onnx and onnxruntime are installed."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    parts = [onnx.numpy_helper.from_array(np.float32(np.eye(6)[:, s]), n) for s, n in SLICES]
    nodes = [make.make_node("MatMul", ["y", n], [f"{n}_of_y"]) for _, n in SLICES]
    outputs = [make.make_tensor_value_info(f"{n}_of_y", kind, ["n", 2]) for _, n in SLICES]
    inputs = [make.make_tensor_value_info("y", kind, ["n", 6])]
    graph = make.make_graph(nodes, "encoder", inputs, outputs, parts)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "e.onnx")
    encoder = load_network(tmp_path / "e.onnx")
    for seen, (part, _) in zip(encoder(DATA), SLICES, strict=True):
        np.testing.assert_array_equal(seen, DATA[:, part].astype(np.float32))
    with pytest.raises(ValueError, match=r"cannot take a batch of shape \(5, 3\) \(\[ONNX"):
        encoder(DATA[:, :3])
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match="is no ONNX file"):
        load_network(tmp_path / "bad.onnx")


def test_onnx_without_onnxruntime(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "e.onnx").touch()
    with pytest.raises(ValueError, match="needs onnxruntime, which is not installed"):
        load_network(tmp_path / "e.onnx")


def test_files_that_are_no_networks(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: give the file"):
        load_network(tmp_path / "nothing.pt")
    wrong = (("w.pkl", "nothing is unpickled here"), ("w.pt", "is no TorchScript file, or a dam"))
    for name, message in wrong:
        torch.save({"weight": torch.zeros(2)}, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            load_network(tmp_path / name)
    torch.save(Encoder(), tmp_path / "module.pt")
    (tmp_path / "damaged.pt").write_bytes(b"no network")
    for name in ("w.pt", "module.pt", "damaged.pt"):
        with pytest.raises(ValueError, match="load it yourself and give the object") as refusal:
            load_network(tmp_path / name)
        assert "PytorchStreamReader" not in str(refusal.value)


def test_a_file_of_torch_export_is_not_unpickled(tmp_path):
    (tmp_path / "e.pt2").touch()
    words = r"unpickled.*torch\.export\.load\(path\)\.module\(\).*ONNX or TorchScript"
    with pytest.raises(ValueError, match=words):
        load_network(tmp_path / "e.pt2")


def test_what_cannot_be_called():
    with pytest.raises(ValueError, match="encoder=3 must be a function of a batch"):
        as_function(3)
