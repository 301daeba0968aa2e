"""TensorFlow reads these when it is imported: this package's `__init__` runs before any module of it imports TensorFlow."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# oneDNN changes no result here, since XLA compiles all that counts. Switched on, TensorFlow announces it in every process.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ["KERAS_BACKEND"] = "tensorflow"
