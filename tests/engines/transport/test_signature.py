"""Signatures by ssh-keygen: of these bytes, by these people, for this purpose, and no questions."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from engines.errors import InputError, MissingDependencyError, TrustError, UsageError
from engines.transport import signature

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


@dataclasses.dataclass(frozen=True)
class Keys:
    """Two people with a key each, and one with a passphrase."""

    folder: Path

    def key(self, name: str) -> Path:
        return self.folder / name

    def signers(self, *names: str) -> Path:
        """A file that allows these people."""
        path = self.folder / f"allowed_{'_'.join(names)}"
        lines = [f"{name}@edge {self.key(name).with_suffix('.pub').read_text()}" for name in names]
        path.write_text("".join(lines))
        return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    for name, phrase in (("anna", ""), ("ben", ""), ("carl", "secret")):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", str(folder / name)]
        subprocess.run(words, check=True)
    return Keys(folder)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "model.bundle.tar"
    path.write_bytes(b"content")
    return path


def test_who_signed_is_named(bundle: Path, keys: Keys) -> None:
    out = signature.sign(bundle, keys.key("anna"))

    assert out == bundle.with_name("model.bundle.tar.sig")
    assert signature.verify(bundle, keys.signers("ben", "anna")) == "anna@edge"
    assert signature.verify(bundle, keys.signers("anna"), identity="anna@edge") == "anna@edge"


def test_a_graph_is_signed_through_its_manifest(tmp_path: Path, keys: Keys) -> None:
    (tmp_path / "model.manifest.json").write_text("{}")

    out = signature.sign(tmp_path / "model.onnx", keys.key("anna"))

    assert out.name == "model.manifest.json.sig"
    assert signature.verify(tmp_path / "model.onnx", keys.signers("anna")) == "anna@edge"
    (tmp_path / "model.manifest.json").write_text("{ }")
    with pytest.raises(TrustError, match="is not valid"):
        signature.verify(tmp_path / "model.onnx", keys.signers("anna"))


def test_one_changed_byte_is_refused(bundle: Path, keys: Keys) -> None:
    signature.sign(bundle, keys.key("anna"))
    bundle.write_bytes(b"Content")

    with pytest.raises(TrustError, match="is not valid"):
        signature.verify(bundle, keys.signers("anna"))


def test_somebody_else_s_signature_is_refused(bundle: Path, keys: Keys) -> None:
    signature.sign(bundle, keys.key("ben"))

    with pytest.raises(TrustError, match="no allowed signer has this key"):
        signature.verify(bundle, keys.signers("anna"))
    with pytest.raises(TrustError, match="is not valid"):
        signature.verify(bundle, keys.signers("anna", "ben"), identity="anna@edge")


def test_a_signature_for_another_purpose_is_refused(bundle: Path, keys: Keys) -> None:
    words = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(keys.key("anna")), "-n", "git"]
    subprocess.run([*words, str(bundle)], check=True, capture_output=True)

    with pytest.raises(TrustError, match="is not valid"):
        signature.verify(bundle, keys.signers("anna"))


@pytest.mark.parametrize("content", [b"", b"-----BEGIN SSH SIGNATURE-----\n", b"\0" * 64])
def test_junk_is_no_signature(content: bytes, bundle: Path, keys: Keys) -> None:
    signature.signature_path(bundle).write_bytes(content)

    with pytest.raises(TrustError, match="is not valid"):
        signature.verify(bundle, keys.signers("anna"))


def test_an_expired_signer_is_refused(bundle: Path, keys: Keys) -> None:
    signature.sign(bundle, keys.key("anna"))
    line = keys.signers("anna").read_text()
    name, rest = line.split(" ", 1)
    expired = bundle.with_name("expired")
    expired.write_text(f'{name} valid-before="20200101" {rest}')

    with pytest.raises(TrustError):
        signature.verify(bundle, expired)


def test_what_is_missing_is_a_sentence(bundle: Path, keys: Keys) -> None:
    with pytest.raises(TrustError, match="it is not signed"):
        signature.verify(bundle, keys.signers("anna"))
    with pytest.raises(InputError, match="no such file of allowed signers"):
        signature.verify(bundle, bundle.with_name("absent"))
    with pytest.raises(InputError, match="no such key"):
        signature.sign(bundle, bundle.with_name("absent"))


def test_nobody_is_asked_for_a_passphrase(bundle: Path, keys: Keys) -> None:
    with pytest.raises(InputError, match="the key cannot sign") as caught:
        signature.sign(bundle, keys.key("carl"))

    assert "ssh-add" in caught.value.fix
    assert not signature.signature_path(bundle).exists()


def test_a_signature_is_not_replaced_without_force(bundle: Path, keys: Keys) -> None:
    signature.sign(bundle, keys.key("anna"))

    with pytest.raises(UsageError, match="exists already"):
        signature.sign(bundle, keys.key("ben"))
    signature.sign(bundle, keys.key("ben"), force=True)
    assert signature.verify(bundle, keys.signers("ben")) == "ben@edge"


def test_without_ssh_keygen_it_says_what_to_install(
    bundle: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(bundle.parent))

    with pytest.raises(MissingDependencyError, match="no ssh-keygen") as caught:
        signature.sign(bundle, keys.key("anna"))

    assert "openssh-client" in caught.value.fix
