"""Encryption of a directory of an ext4 file system by the kernel: fscrypt, policies of version 2.

Source: Documentation/filesystems/fscrypt.rst and linux/fscrypt.h. Contents AES-256-XTS, names AES-256-CTS-CBC; from the
64-byte master key the kernel derives one key per file. The key belongs to a file system, so it can be added and removed
through any file or directory of it, an encrypted one included.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from enum import IntEnum
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mainstay.model.errors import Permanent

ADD_KEY = 0xC0506617
REMOVE_KEY_ALL_USERS = 0xC0406619
KEY_STATUS = 0xC080661A
SET_POLICY = 0x800C6613
GET_POLICY_EX = 0xC0096616
MASTER_KEY_BYTES = 64
SPECIFIER_IDENTIFIER = 2
AES_256_XTS, AES_256_CTS = 1, 4
PAD_32 = 3
FILES_BUSY = 1
SPECIFIER = struct.Struct("=II16s16s")
POLICY = struct.Struct("=BBBBB3s16s")
PURPOSE = b"mainstay volume, fscrypt"


class KeyState(IntEnum):
    """FS_IOC_GET_ENCRYPTION_KEY_STATUS. REMOVING: files that were open when it was removed are still in use."""

    ABSENT = 1
    PRESENT = 2
    REMOVING = 3


def master_key(data_key: str) -> bytes:
    """The kernel's key of a volume, from the volume's data key (hexadecimal)."""
    try:
        secret = bytes.fromhex(data_key)
    except ValueError:
        secret = b""
    if len(secret) != 32:
        raise Permanent("the data key of the volume is not 64 hexadecimal digits")
    return HKDF(algorithm=SHA512(), length=MASTER_KEY_BYTES, salt=None, info=PURPOSE).derive(secret)


def add_key(path: Path, key: bytes) -> bytes:
    """Gives the kernel the key for the file system of `path`; returns the key's identifier."""
    argument = bytearray(
        SPECIFIER.pack(SPECIFIER_IDENTIFIER, 0, b"", b"") + struct.pack("=III28s", len(key), 0, 0, b"")
    )
    argument += key
    _ioctl(path, ADD_KEY, argument)
    return bytes(argument[8:24])


def remove_key(path: Path, identifier: bytes) -> bool:
    """Takes the key out of the kernel; whether nothing of it is left (files in use keep theirs until they are closed).

    A key that is not there is no error.
    """
    argument = bytearray(SPECIFIER.pack(SPECIFIER_IDENTIFIER, 0, identifier, b"") + bytes(24))
    try:
        _ioctl(path, REMOVE_KEY_ALL_USERS, argument)
    except OSError as error:
        if error.errno == errno.ENOKEY:
            return True
        raise
    flags: int = struct.unpack_from("=I", argument, SPECIFIER.size)[0]
    return not flags & FILES_BUSY


def key_state(path: Path, identifier: bytes) -> KeyState:
    """Whether the kernel has this key for the file system of `path`."""
    argument = bytearray(SPECIFIER.pack(SPECIFIER_IDENTIFIER, 0, identifier, b"") + bytes(88))
    _ioctl(path, KEY_STATUS, argument)
    return KeyState(struct.unpack_from("=I", argument, 64)[0])


def encrypt_directory(path: Path, identifier: bytes) -> None:
    """Everything made in this empty directory from now on is encrypted with that key."""
    argument = bytearray(POLICY.pack(2, AES_256_XTS, AES_256_CTS, PAD_32, 0, b"", identifier))
    _ioctl(path, SET_POLICY, argument)


def policy_identifier(path: Path) -> bytes | None:
    """The identifier of the key that a directory is encrypted with; None for a plain one."""
    argument = bytearray(struct.pack("=Q", POLICY.size) + bytes(POLICY.size))
    try:
        _ioctl(path, GET_POLICY_EX, argument)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):  # not encrypted; not even possible here
            return None
        raise
    return bytes(argument[16:32])


def _ioctl(path: Path, request: int, argument: bytearray) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, request, argument, True)
    finally:
        os.close(descriptor)
