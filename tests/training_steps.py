"""A small network that ends in its loss, and a few steps of its training, for tests of what is wrapped around them."""

from __future__ import annotations

import torch
from strategies import Case

import cas_ext


def loss_and_gradient(function, input, target):
    input = input.detach().requires_grad_()
    loss = function(input, target)
    (gradient,) = torch.autograd.grad(loss.sum(), input)
    return loss.detach(), gradient


class Step(torch.nn.Module):
    """A network that ends in its loss."""

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Softmax(1))
        self.criterion = cas_ext.CASLoss(num_regions=3)

    def forward(self, images, target):
        return self.criterion(self.network(images), target)


def step_and_batches(device):
    """The same network every time, and batches of three sizes."""
    torch.manual_seed(0)
    step = Step().to(device.torch_device)
    sizes = ((2, (9, 11)), (3, (8, 13)), (4, (21, 6)))
    return step, [Case(batch=batch, spatial=spatial).tensors(device.torch_device) for batch, spatial in sizes]


def train(forward, step, batches):
    """Losses and final weights of a few steps of SGD."""
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    losses = []
    for images, target in batches:
        optimizer.zero_grad()
        loss = forward(images.detach(), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [torch.stack(losses), *(parameter.detach() for parameter in step.parameters())]


class Module(torch.nn.Module):
    """A function as a module, which torch.export wants."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *arguments):
        return self.function(*arguments)
