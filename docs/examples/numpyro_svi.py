"""This suite's mean-field model in NumPyro, trained by its `SVI` as fast as it goes; prints the seconds that it took.

It imports nothing of this suite: `python -m benchmarks numpyro` runs it with the Python of an environment of its own
(environments/numpyro.txt), in turns with the three backends.
"""

import argparse
import json
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.example_libraries import stax
from numpyro.infer import SVI, Trace_ELBO

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--images", required=True, help="A .npy file, uint8 [images, pixels] of 0 and 1.")
parser.add_argument("--latent-size", type=int, required=True)
parser.add_argument("--hidden-size", type=int, required=True)
parser.add_argument("--batch-size", type=int, required=True)
parser.add_argument("--learning-rate", type=float, required=True)
parser.add_argument("--steps", type=int, required=True, help="Steps on the clock, a multiple of --chunk.")
parser.add_argument("--chunk", type=int, required=True, help="Steps a compiled call.")
asked = parser.parse_args()


def network(outputs):
    """MLP(inputs → hidden → hidden → outputs), ReLU."""
    hidden = asked.hidden_size
    return stax.serial(stax.Dense(hidden), stax.Relu, stax.Dense(hidden), stax.Relu, stax.Dense(outputs))


def model(x):  # x [batch, pixels]
    batch, pixels = x.shape
    decode = numpyro.module("decoder", network(pixels), (batch, asked.latent_size))
    with numpyro.plate("batch", batch):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([asked.latent_size]).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)


def guide(x):
    batch, pixels = x.shape
    encode = numpyro.module("encoder", network(2 * asked.latent_size), (batch, pixels))
    loc, s = jnp.split(encode(x), 2, axis=-1)
    with numpyro.plate("batch", batch):
        numpyro.sample("z", dist.Normal(loc, jax.nn.softplus(s)).to_event(1))


svi = SVI(model, guide, numpyro.optim.Adam(asked.learning_rate), Trace_ELBO())


@partial(jax.jit, donate_argnums=0)
def train(state, images, indices):  # indices [steps, batch] → losses [steps]
    """A chunk of steps in one compiled loop."""
    return jax.lax.scan(lambda state, rows: svi.update(state, images[rows].astype(jnp.float32)), state, indices)


def minibatches(images):
    """The rows of one minibatch after another, an epoch's permutation at a time."""
    random = np.random.default_rng(0)
    while True:
        order = random.permutation(images).astype(np.int32)
        yield from order[: images - images % asked.batch_size].reshape(-1, asked.batch_size)


images = jax.device_put(np.load(asked.images))
batches = minibatches(len(images))
state = svi.init(jax.random.key(0), images[: asked.batch_size].astype(jnp.float32))


def chunk(state):
    state, losses = train(state, images, np.stack([next(batches) for _ in range(asked.chunk)]))
    return state, jax.device_get(losses)


state, first = chunk(state)  # compiles
jax.block_until_ready(state)
start = time.perf_counter()
for _ in range(asked.steps // asked.chunk):
    state, losses = chunk(state)
jax.block_until_ready(state)
seconds = time.perf_counter() - start
losses = [float(values.mean()) / asked.batch_size for values in (first, losses)]  # nats an image: first and last chunk
print(json.dumps({"seconds": seconds, "steps": asked.steps // asked.chunk * asked.chunk, "loss": losses}))
