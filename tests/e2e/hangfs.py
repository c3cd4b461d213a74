"""A file system that answers nothing but that it is there: whoever looks into it waits. hangfs.py DIRECTORY"""
import ctypes
import os
import struct
import sys

INIT, HEAD = 26, struct.Struct("<IIQ")

fuse = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"hang", sys.argv[1].encode(), b"fuse", 0, options) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
while True:
    request = os.read(fuse, 1 << 20)
    _, what, number = HEAD.unpack_from(request)
    if what == INIT:
        ahead = struct.unpack_from("<I", request, 48)[0]
        body = struct.pack("<IIIIHHIIHH", 7, 31, ahead, 0, 12, 10, 65536, 1, 0, 0).ljust(64, b"\0")
        os.write(fuse, struct.pack("<IiQ", 16 + len(body), 0, number) + body)
        print("ready", flush=True)
