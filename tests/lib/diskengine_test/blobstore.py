"""Reads lvols out of the file of a disk, as a stranger would: SPDK's on-disk format and nothing of ours
(docs/formats/blobstore.md). For thin and thick lvols without a parent, with all that was acknowledged in place.

    store = Blobstore(path)
    store.lvol("lvol_1").read(offset_bytes, length)
"""

import struct

PAGE_BYTES = 4096
NO_PAGE = 0xFFFFFFFF
CLUSTERS_PER_EXTENT_PAGE = 512
CRC_POLYNOMIAL = 0x82F63B78  # CRC32C, reflected


def _crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (CRC_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


CRC_TABLE = _crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def sealed(page):
    """Whether the checksum at the end of a page is right."""
    return struct.unpack_from("<I", page, PAGE_BYTES - 4)[0] == crc32c(page[:-4])


class Lvol:
    def __init__(self, store, name, uuid, clusters):
        self.name, self.uuid = name, uuid
        self._store, self._clusters = store, clusters

    @property
    def size_bytes(self):
        return len(self._clusters) * self._store.cluster_bytes

    def read(self, offset, length):
        """The bytes there; unallocated clusters are zeroes."""
        parts = []
        while length > 0:
            index, within = divmod(offset, self._store.cluster_bytes)
            count = min(length, self._store.cluster_bytes - within)
            start = self._clusters[index] * self._store.cluster_bytes
            parts.append(self._store.bytes_at(start + within, count) if start else bytes(count))
            offset, length = offset + count, length - count
        return b"".join(parts)


class Blobstore:
    def __init__(self, path):
        self._path = path
        page = self.bytes_at(0, PAGE_BYTES)
        if page[:8] != b"SPDKBLOB":
            raise ValueError(f"{path} holds no blobstore")
        self.clean = struct.unpack_from("<I", page, 16)[0] == 1
        self.cluster_bytes = struct.unpack_from("<I", page, 28)[0]
        self._md_start, self._md_pages = struct.unpack_from("<II", page, 48)
        self.type = page[56:72].rstrip(b"\0").decode()

    def bytes_at(self, offset, length):
        with open(self._path, "rb") as file:
            file.seek(offset)
            return file.read(length)

    def _md_page(self, index):
        page = self.bytes_at((self._md_start + index) * PAGE_BYTES, PAGE_BYTES)
        if not sealed(page):
            raise ValueError(f"{self._path}: the checksum of metadata page {index} is wrong")
        return page

    def lvols(self):
        """{name: Lvol} of everything that has a name, the store itself excepted."""
        found = {}
        for index in range(self._md_pages):
            head = self.bytes_at((self._md_start + index) * PAGE_BYTES, 12)
            blob_id, sequence = struct.unpack("<QI", head)
            if blob_id != (1 << 32) | index or sequence != 0:
                continue
            lvol = self._lvol(index)
            if lvol is not None:
                found[lvol.name] = lvol
        return found

    def lvol(self, name):
        return self.lvols()[name]

    def _lvol(self, index):
        xattrs, extent_pages, clusters = {}, [], None
        for kind, body in self._descriptors(index):
            if kind == 2:
                name_length, value_length = struct.unpack_from("<HH", body)
                xattrs[body[4 : 4 + name_length].decode()] = body[4 + name_length : 4 + name_length + value_length]
            elif kind == 5:
                clusters = clusters or struct.unpack_from("<Q", body)[0]
                for page, count in struct.iter_unpack("<II", body[8:]):
                    extent_pages += [page] if page else [0] * count
        if clusters is None or "name" not in xattrs:
            return None
        numbers = []
        for page in extent_pages:
            numbers += self._extents(page) if page else [0] * CLUSTERS_PER_EXTENT_PAGE
        numbers = (numbers + [0] * clusters)[:clusters]
        text = {name: value.rstrip(b"\0").decode() for name, value in xattrs.items()}
        return Lvol(self, text["name"], text.get("uuid", ""), numbers)

    def _extents(self, index):
        page = self._md_page(index)
        kind, length = struct.unpack_from("<BI", page, 16)
        if kind != 6:
            raise ValueError(f"{self._path}: metadata page {index} is no extent page")
        numbers = list(struct.unpack_from(f"<{(length - 4) // 4}I", page, 16 + 5 + 4))
        return (numbers + [0] * CLUSTERS_PER_EXTENT_PAGE)[:CLUSTERS_PER_EXTENT_PAGE]

    def _descriptors(self, index):
        """(type, body) of every descriptor in the chain that begins at a page."""
        while index != NO_PAGE:
            page = self._md_page(index)
            at = 16
            while at + 5 <= PAGE_BYTES - 8:
                kind, length = struct.unpack_from("<BI", page, at)
                if kind == 0 and length == 0:
                    break
                yield kind, page[at + 5 : at + 5 + length]
                at += 5 + length
            index = struct.unpack_from("<I", page, PAGE_BYTES - 8)[0]
