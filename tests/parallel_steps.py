"""Three GAN steps, in one process or as one of several: python tests/parallel_steps.py CONFIG.json RESULT.pt"""

import json
import sys

import torch

from ganseg import config, distributed, train
from ganseg.devices import rng
from ganseg.model import loading
from ganseg.model.discriminator import Discriminator
from ganseg.training import losses


def main(config_file, result_file):
    torch.set_num_threads(1)
    cfg = config.check(json.loads(open(config_file).read()))
    device = distributed.start(cfg, torch.device("cpu"))
    G = distributed.synchronise(loading.build_generator(cfg)).train()
    torch.manual_seed(1)
    D = Discriminator(cfg).train()
    optimizers = train.optimizers(G, D, cfg)
    real = 2 * torch.rand(cfg.batch_size, 3, cfg.image_size, cfg.image_size, generator=rng("real")) - 1
    result = {}
    for step in range(3):
        values = train.gan_step(G, D, *optimizers, distributed.mine(real).to(device), rng(step), cfg, step)
        if step == 0:
            result["gradients"] = [p.grad.clone() for net in (G, D) for p in net.parameters()]
            result["losses"] = {name: distributed.mean(value).item() for name, value in values.items()}
    result["weights"] = [p.detach() for net in (G, D) for p in net.parameters()]
    result["statistics"] = [b for b in G.buffers() if b.is_floating_point()]
    # The gradient penalty by itself
    D.zero_grad()
    losses.gradient_penalty(D, distributed.mine(real)).backward()
    distributed.average_gradients(D)
    result["penalty"] = [p.grad for p in D.parameters() if p.grad is not None]
    if not distributed.rank():
        torch.save(result, result_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
