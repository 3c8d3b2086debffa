"""Three GAN steps of each config, alone or as one of several processes: parallel_steps.py CONFIGS.json RESULTS.pt"""

import json
import sys

import torch

from ganseg import config, distributed, train
from ganseg.devices import rng
from ganseg.model import loading
from ganseg.model.discriminator import Discriminator
from ganseg.training import losses


def three_steps(cfg):
    """Gradients and losses of the first step, weights and statistics after three, and the penalty's gradients."""
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
    return result


def main(configs_file, results_file):
    torch.set_num_threads(1)
    results = [three_steps(config.check(fields)) for fields in json.loads(open(configs_file).read())]
    if not distributed.rank():
        torch.save(results, results_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
