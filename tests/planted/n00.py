import functools

import torch

from ldm_tutorial.curios.shapes import at, box, sphere, torus, union


def recursive(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    def go(z, rest):
        return go(scheduler_step(unet(z, rest[0], c), rest[0], z), rest[1:]) if rest else z

    c = encode_text(prompt)
    return decode(go(z, list(timesteps)))


def reduced(text, noise, steps, reader, network, mover, painter):
    meaning = reader(text)
    return painter(functools.reduce(lambda z, t: mover(network(z, t, meaning), t, z), steps, noise))


def no_decoder(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    c = encode_text(prompt)
    for t in timesteps:
        z = scheduler_step(unet(z, t, c), t, z)
    return z


def decoder_inside(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    c = encode_text(prompt)
    for t in timesteps:
        z = scheduler_step(unet(z, t, c), t, z)
        z = decode(z)
    return z


def answer_as_latents(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    c = encode_text(prompt)
    for t in timesteps:
        z = unet(z, t, c)
    return decode(z)


def first_noise(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    c = encode_text(prompt)
    latents = z
    for t in timesteps:
        latents = scheduler_step(unet(z, t, c), t, latents)
    return decode(latents)


def read_in_the_loop(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    for t in timesteps:
        z = scheduler_step(unet(z, t, encode_text(prompt)), t, z)
    return decode(z)


def exchanged(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    c = encode_text(prompt)
    for t in timesteps:
        z = scheduler_step(unet(z, c, t), t, z)
    return decode(z)


def scheduler_exchanged(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    c = encode_text(prompt)
    for t in timesteps:
        z = scheduler_step(z, t, unet(z, t, c))
    return decode(z)


def leaves(*inputs):
    raise SystemExit


def far_in_numpy(film):
    arrays = [z.numpy().astype("float64") for z in film]
    size = (arrays[-1] ** 2).sum() ** 0.5
    return [((a - arrays[-1]) ** 2).sum() ** 0.5 / size for a in arrays]


def far_stacked(latents):
    away = torch.stack(latents) - latents[-1]
    return away.flatten(1).norm(dim=1) / latents[-1].norm()


def far_squared(film):
    return [(z - film[-1]).square().sum() / film[-1].square().sum() for z in film]


def far_own_size(film):
    return [((z - film[-1]).norm() / z.norm()).item() for z in film]


def far_undivided(film):
    return [torch.dist(z, film[-1]).item() for z in film]


def far_sizes(film):
    return [abs(z.norm() - film[-1].norm()) / film[-1].norm() for z in film]


def tower(p):
    return union(
        box(at(p, 0, -0.5, 0), 0.5, 0.3, 0.5), box(at(p, 0, 0.2, 0), 0.3, 0.5, 0.3), torus(at(p, 0, 0.6, 0), 0.25, 0.1)
    )


def dumbbell(points):
    x, y, z = points
    left = ((x + 0.6) ** 2 + y**2 + z**2).sqrt() - 0.35
    right = ((x - 0.6) ** 2 + y**2 + z**2).sqrt() - 0.35
    rod = torch.maximum((y**2 + z**2).sqrt() - 0.1, x.abs() - 0.6)
    return torch.minimum(torch.minimum(left, right), rod)


def squared(p):
    return torch.minimum((p**2).sum(0) - 0.2, (at(p, 0.5, 0, 0) ** 2).sum(0) - 0.1)


CAPTION = "a {material} tower on a {background} background"


def made(**changes):
    return {"name": "tower", "distance": tower, "caption": "a tower made of {material} on a {background} background", **changes}


RIGHT = {
    "distance_to_go": [far_in_numpy, far_stacked],
    "my_object": [
        made(caption=CAPTION),
        made(name="dumbbell", distance=dumbbell, caption="A picture of a dumbbell in {material}, {background} background"),
    ],
    "text_to_image": [recursive, reduced],
    "how_often": ["B", " b"],
    "unknown_to_it": ["a golden duck riding a bicycle", "an armchair made of rhubarb on a blue background"],
}
WRONG = {
    "distance_to_go": {
        "the square root is missing": far_squared,
        "the latents of its own moment": far_own_size,
        "not divided by anything": far_undivided,
        "the sizes were subtracted": far_sizes,
        "is missing: one number for each": lambda film: far_in_numpy(film)[:-1],
    },
    "my_object": {
        'a dictionary with "name"': tower,
        "Curios has 'mug' already": made(name="cup"),
        "a single ball": made(distance=lambda p: sphere(p, 0.7)),
        "is a square root missing": made(distance=squared),
        "reaches beyond -1 or 1": made(distance=lambda p: tower(p) - 0.5),
        "negative inside and positive outside": made(distance=lambda p: -tower(p)),
        "nothing to see": made(distance=lambda p: tower(p) + 2),
        "distances [117649] are expected": made(distance=lambda p: p),
        "should hold {material} and {background}": made(caption="a golden tower"),
        "should name the object": made(caption="a thing made of {material} on a {background} background"),
        "as the background: word it": made(caption="a {background} tower before {material}"),
    },
    "text_to_image": {
        "without the decoder": no_decoder,
        "the decoder works in every step": decoder_inside,
        "taken for the new latents": answer_as_latents,
        "always sees the first noise": first_noise,
        "encode_text was called 3 times": read_in_the_loop,
        "t stands before c": exchanged,
        "the answer stands first": scheduler_exchanged,
        "stopped with an error in the line `raise SystemExit`": leaves,
    },
    "how_often": {"need not work twice": "A", "removes a part of the noise": "C", "comes after the last step": "D"},
    "unknown_to_it": {
        "knows every single word": "a golden duck on a blue background",
        "name one object": "a submarine under the sea",
        "3 to 12 words": "rhubarb",
    },
}
