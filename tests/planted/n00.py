import functools


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


RIGHT = {
    "text_to_image": [recursive, reduced],
    "how_often": ["B", " b"],
    "unknown_to_it": ["a golden duck riding a bicycle", "an armchair made of rhubarb on a blue background"],
}
WRONG = {
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
