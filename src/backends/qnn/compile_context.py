"""Compiles one ONNX model, or several, to a QNN context binary, with the compiler in the onnxruntime-qnn package.

    python -c SCRIPT probe
    python -c SCRIPT compile MODEL.onnx OUTPUT_ctx.onnx SOC_MODEL HTP_ARCH [--with MODEL OUTPUT]... [--finalization N]

Models given by --with become graphs of the same binary, in which equal weights are stored once.

Prints one JSON object. probe: onnxruntime, onnxruntime_qnn, qairt (versions). compile: seconds, peak_rss_bytes,
graph_name, binary (its file name, beside OUTPUT_ctx.onnx), bytes, and others: graph_name and binary of each --with. On
failure, with exit code 1: error (in words), nodes
(name and type of each that the compiler means), log (all that was printed). One compile for each process: a second one
in the same process gives other bytes.
"""

import sys

# Modules come from the installation, never from the folder that we are started in, nor from the model's.
if "" in sys.path:
    sys.path.remove("")

import argparse
import ctypes
import fcntl
import json
import mmap
import os
import re
import resource
import signal
import stat
import tempfile
import time

PROVIDER = "QNNExecutionProvider"
# Of a compiled model: what every ONNX Runtime reads that has the operator EPContext (1.17, IR version 9 and opset 20).
IR_VERSION = 8
OPSET = 17
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# How onnxruntime begins a record: "2026-11-26 12:07:02.79 [E:onnxruntime:, file.cc:2453 Function] ".
RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \[(\w):[^\]]*\] ", re.MULTILINE)
UNSUPPORTED = re.compile(r"Unsupported nodes in QNN EP: (.*)")
NODE = re.compile(r"\{ name: (.*?), type: (.*?) \}")


def take_standard_streams():
    """Sends what the libraries print, on both streams, to a file that can be read back; returns where the answer goes.

    Streams are replaced at the level of descriptors: the compiler is C++. Standard error stays where it is if it can be
    read back, so that whoever gave it to us has it even after a crash.
    """
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    readable = fcntl.fcntl(2, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    if not (readable and stat.S_ISREG(os.fstat(2).st_mode)):
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
    os.dup2(2, 1)
    return answer


def printed():
    sys.stderr.flush()
    return COLOUR.sub("", os.pread(2, os.fstat(2).st_size, 0).decode("utf-8", "replace"))


def end_with_parent():
    """Linux: whatever ends the program that started us ends this compile, which may take minutes."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def records(log):
    """What went wrong, each said once: the records of errors, and those warnings that tell of a failure."""
    parts = RECORD.split(log)
    found = []
    for severity, text in zip(parts[1::2], parts[2::2]):  # noqa: B905 (strict= is newer than some Pythons we are run by)
        text = text.strip()
        if (severity in "EF" or "failed" in text) and text not in found:
            found.append(text)
    return found


def failure(error, log):
    words = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)).strip() or type(error).__name__
    nodes = []
    for listed in UNSUPPORTED.findall(log):
        for name, kind in NODE.findall(listed):
            if {"name": name, "type": kind} not in nodes:
                nodes.append({"name": name, "type": kind})
    said = [text for text in records(log) if text not in words]
    return {"error": "\n".join([words, *said]), "nodes": nodes, "log": log}


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    """The fields of a protobuf message as pairs of number and value; bytes for what has a length."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        else:
            if kind == 2:
                length, at = varint(data, at)
            else:
                length = {1: 8, 5: 4}[kind]
            value = data[at : at + length]
            at += length
        yield key >> 3, value


def values(data, number):
    return [value for field, value in fields(data) if field == number]


def context_node(path):
    """The string attributes of the model's only node, an EPContext. Field numbers are those of onnx.proto."""
    with open(path, "rb") as file:
        graph = values(file.read(), 7)[0]
    nodes = values(graph, 1)
    kinds = [values(node, 4)[0].decode() for node in nodes]
    if kinds != ["EPContext"]:
        raise RuntimeError("the model was not compiled to one context, but to " + (", ".join(kinds) or "nothing"))
    attributes = values(nodes[0], 5)
    return {
        values(each, 1)[0].decode(): values(each, 4)[0].decode("utf-8", "replace")
        for each in attributes
        if values(each, 4)
    }


def encoded_varint(value):
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def with_versions(message, ir_version, opset):
    """The same ModelProto of no newer versions than these, of the format and of ONNX's own operators.

    onnxruntime writes the newest ones that it knows, whatever a model needs, and older ones refuse that.
    """
    result = bytearray()
    for number, value in fields(message):
        if number == 1:  # ir_version
            result += b"\x08" + encoded_varint(min(value, ir_version))
            continue
        if number == 8:  # opset_import: domain and version
            domain = b"".join(values(value, 1))
            version = values(value, 2)[-1]
            if domain in (b"", b"ai.onnx"):
                version = min(version, opset)
            value = (b"\x0a" + encoded_varint(len(domain)) + domain if domain else b"") + b"\x10"
            value += encoded_varint(version)
        result += encoded_varint(number << 3 | (0 if isinstance(value, int) else 2))
        result += encoded_varint(value) if isinstance(value, int) else encoded_varint(len(value)) + value
    return bytes(result)


def lower_versions(path):
    """Rewrites a model whose only node is an EPContext, which needs no version of ONNX's own operators."""
    with open(path, "rb") as file:
        message = file.read()
    with open(path, "wb") as file:
        file.write(with_versions(message, IR_VERSION, OPSET))


def load_provider():
    import onnxruntime
    import onnxruntime_qnn

    onnxruntime.set_default_logger_severity(2)
    onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER][:1]
    if not devices:
        raise RuntimeError("onnxruntime lists no device of " + PROVIDER)
    return onnxruntime, onnxruntime_qnn, devices


def qairt_build(library):
    """The build of Qualcomm's compiler: its library holds it as text, such as v2.51.0.260929181845."""
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = re.search(rb"v(\d+\.\d+\.\d+\.\d{12})", data)
        return found.group(1).decode() if found else None


def peak_rss_bytes():
    # Linux's getrusage begins with what the parent had at the time of exec, /proc does not.
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def probe():
    onnxruntime, onnxruntime_qnn, _ = load_provider()
    return {
        "onnxruntime": onnxruntime.__version__,
        "onnxruntime_qnn": onnxruntime_qnn.__version__,
        "qairt": qairt_build(onnxruntime_qnn.get_qnn_htp_path()),
    }


def context_options(output, is_shared, is_last):
    result = {
        "session.disable_cpu_ep_fallback": "1",  # the whole graph on the NPU, or an error
        "ep.context_enable": "1",
        "ep.context_file_path": output,
        "ep.context_embed_mode": "0",  # the binary in a file of its own
    }
    if is_shared:
        result["ep.share_ep_contexts"] = "1"
        if is_last:
            result["ep.stop_share_ep_contexts"] = "1"
    return result


def compile_models(arguments):
    onnxruntime, onnxruntime_qnn, devices = load_provider()
    pairs = [(arguments.model, arguments.output), *arguments.others]
    pairs = [(os.path.abspath(model), os.path.abspath(output)) for model, output in pairs]
    provider = {
        "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
        "soc_model": str(arguments.soc_model),
        "htp_arch": str(arguments.htp_arch),
    }
    if arguments.finalization is not None:
        provider["htp_graph_finalization_optimization_mode"] = str(arguments.finalization)
    start = time.monotonic()
    sessions = []  # the last one writes the binary that all share
    for model, output in pairs:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 2
        for key, value in context_options(output, len(pairs) > 1, (model, output) == pairs[-1]).items():
            options.add_session_config_entry(key, value)
        options.add_provider_for_devices(devices, provider)
        # onnxruntime makes the graph's name, and so the binary, from the path of the model as it is given.
        folder, name = os.path.split(model)
        if os.path.isdir(folder):
            os.chdir(folder)
        sessions.append(onnxruntime.InferenceSession(name, options))
    seconds = time.monotonic() - start
    del sessions
    nodes = []
    for _, output in pairs:
        nodes.append(context_node(output))
        lower_versions(output)
    graphs = [{"graph_name": node["partition_name"], "binary": node["ep_cache_context"]} for node in nodes]
    binary = os.path.join(os.path.dirname(pairs[0][1]), graphs[0]["binary"])
    return {
        "seconds": seconds,
        "peak_rss_bytes": peak_rss_bytes(),
        **graphs[0],
        "bytes": os.path.getsize(binary),
        "others": graphs[1:],
    }


def parse_arguments():
    parser = argparse.ArgumentParser(description="Compiles ONNX models to a QNN context binary.")
    modes = parser.add_subparsers(dest="mode", required=True)
    modes.add_parser("probe", help="prints the versions of the compiler")
    compiling = modes.add_parser("compile", help="compiles a model, or several that share their weights")
    compiling.add_argument("model")
    compiling.add_argument("output")
    compiling.add_argument("soc_model", type=int)
    compiling.add_argument("htp_arch", type=int)
    compiling.add_argument("--with", dest="others", nargs=2, action="append", default=[])
    compiling.add_argument("--finalization", type=int, choices=range(4))
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    end_with_parent()
    answer = take_standard_streams()
    try:
        result = probe() if arguments.mode == "probe" else compile_models(arguments)
    except Exception as error:
        result = failure(error, printed())
    json.dump(result, answer)
    answer.write("\n")
    answer.flush()
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main())
