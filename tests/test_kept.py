"""Models that solutions load: what is kept, and by whom it was made."""

import dataclasses

import pytest
import safetensors.torch
import torch

import utils
from studies import answers
from studies.answers import kept

CONFIG = utils.Config(50, num_hiddens=16, num_blks=1, num_heads=2, max_len=8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'small.safetensors'


@pytest.mark.parametrize('kind', ['BERT', 'GPT', 'T5', 'ViT'])
def test_a_model_comes_back_up_to_sixteen_bits(kind, path):
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, tie_weights=kind != 'T5')
    model = kept.KINDS[kind](config)
    kept.keep(model, path, 'studies.answers.kept here')
    again, made = kept.read(path)
    assert type(again) is type(model) and again.config == config
    assert not again.training
    for name, P in model.named_parameters():
        found = again.get_parameter(name)
        torch.testing.assert_close(found, P.data, atol=1e-6, rtol=1e-3)
        assert torch.equal(found, P.data.half().float())
    assert made.command == 'studies.answers.kept here'
    assert made.torch == torch.__version__ and made.device == 'cpu'


def test_what_is_no_kept_model(path):
    with pytest.raises(FileNotFoundError, match=r'small\.safetensors'):
        kept.read(path)
    path.write_bytes(b'something else')
    with pytest.raises(ValueError, match=r'small\.safetensors is not a kept'):
        kept.read(path)
    safetensors.torch.save_file({'x': torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r'small\.safetensors is not a kept'):
        kept.read(path)
    model = utils.GPT(CONFIG)
    model.more = torch.nn.Linear(2, 2)
    kept.keep(model, path, 'here')
    with pytest.raises(ValueError, match=r"differs .* \['more.bias', 'more.w"):
        kept.read(path)
    model = utils.GPT(CONFIG)
    model.config = dataclasses.replace(CONFIG, max_len=9)
    kept.keep(model, path, 'here')
    with pytest.raises(ValueError, match=r'pos_embedding.weight is \(8, 16\)'):
        kept.read(path)


def test_an_unknown_name():
    with pytest.raises(ValueError, match="name is 'kitten', not one of teach"):
        kept.kept_model('kitten')


def test_the_command_makes_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kept, 'MODELS', {'small': 1, 'other': 2})
    monkeypatch.setattr(kept, 'trained', lambda name: utils.GPT(CONFIG))
    assert kept.main([str(tmp_path)]) == 0
    assert 'small.safetensors has ' in capsys.readouterr().out
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['other.safetensors', 'small.safetensors']
    (tmp_path / 'other.safetensors').unlink()
    before = (tmp_path / 'small.safetensors').stat().st_mtime_ns
    assert kept.main([str(tmp_path)]) == 0
    assert 'small.safetensors is there' in capsys.readouterr().out
    assert (tmp_path / 'small.safetensors').stat().st_mtime_ns == before
    (tmp_path / 'other.safetensors').write_bytes(b'of someone else')
    assert kept.main([str(tmp_path)]) == 1
    assert 'other.safetensors is not a kept' in capsys.readouterr().err
    assert (tmp_path / 'other.safetensors').read_bytes() == b'of someone else'


def test_a_model_that_is_not_finite_is_not_kept(path):
    model = utils.GPT(CONFIG)
    model.token_embedding.weight.data[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r'token_embedding\.weight is not f'):
        kept.keep(model, path, 'here')
    model.token_embedding.weight.data[0, 0] = 1e6  # too large for 16 bits
    with pytest.raises(ValueError, match=r'token_embedding\.weight is not f'):
        kept.keep(model, path, 'here')
    assert not path.exists()


# ---- The models of the solutions ----


def test_there_is_a_file_for_each_name_and_no_other():
    names = {path.stem for path in kept.FOLDER.glob('*.safetensors')}
    assert names == {*kept.MODELS}
    for notebook, *_ in kept.MODELS.values():
        assert notebook in answers.notebooks()


@pytest.mark.parametrize('name', kept.MODELS)
def test_its_solution_loads_it(name):
    notebook, *_ = kept.MODELS[name]
    text = (kept.FOLDER / f'{notebook}.ipynb').read_text(encoding='utf-8')
    assert name in text or f'{name.rpartition("_")[0]}_{{seed}}' in text
    assert f'{name}.safetensors' in text
    model, made = kept.read(kept.path_of(name))
    assert made.command == 'studies.answers.kept solutions'
    assert made.date >= '2026-11' and made.processes == 1
    assert kept.path_of(name).stat().st_size < 400_000
    assert all(P.isfinite().all() for P in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize('name', ['opinions', 'phrases_1', 'one_lesson'])
def test_it_is_what_its_function_trains(name):
    """Rounding differs between machines, and so do single weights."""
    model, again = kept.kept_model(name), kept.trained(name)
    for key, P in model.named_parameters():
        found = torch.corrcoef(
            torch.stack((P, again.get_parameter(key))).flatten(1)
        )[0, 1]
        assert P.numel() < 200 or found > 0.9, key
