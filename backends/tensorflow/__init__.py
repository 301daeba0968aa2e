"""TensorFlow reads these when it is imported: this package's `__init__` runs before any module of it imports TensorFlow."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# oneDNN changes no result here, since XLA compiles all that counts. Switched on, TensorFlow announces it in every process.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ["KERAS_BACKEND"] = "tensorflow"
# XLA may skip a rounding to bfloat16 before a conversion to float32. With this option it computes them all, as in JAX.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_allow_excess_precision=false".strip()
