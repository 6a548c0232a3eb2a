"""Post-training quantization of ONNX files to 8-bit integers, by ONNX Runtime."""

import importlib
import pathlib
import tempfile


def of_onnx(content, part, batches):
    """Quantizes weights and activations, with activation ranges calibrated on samples.

    Weights have one scale per channel. Inputs and outputs remain floats.

    Args:
        content: bytes, an ONNX file.
        part: `Part` of which the file was made.
        batches: list of batches, each a list of arrays for the part's inputs.

    Returns:
        An ONNX file, bytes.
    """
    tools = importlib.import_module("onnxruntime.quantization")
    left = iter(batches)

    class Reader(tools.CalibrationDataReader):
        def get_next(self):
            inputs = next(left, None)
            return None if inputs is None else dict(zip(part.inputs, inputs))

    with tempfile.TemporaryDirectory() as folder:
        before, ready, after = (pathlib.Path(folder, f"{name}.onnx") for name in ("before", "ready", "after"))
        before.write_bytes(content)
        tools.quant_pre_process(before, ready, skip_symbolic_shape=True)  # folds batch normalization
        tools.quantize_static(
            ready,
            after,
            Reader(),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )
        return after.read_bytes()
