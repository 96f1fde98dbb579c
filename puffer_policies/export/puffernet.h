/* puffernet.h plays the PufferNet in a file of weights as PufferLib 5 writes them: C99 and libm.
 *
 * One file of a program defines PUFFERNET_IMPLEMENTATION before it includes this one.
 *
 *     char error[PUFFERNET_ERROR];
 *     puffernet *net = puffernet_open("cartpole.bin", &cartpole_sizes, 1, error);
 *     puffernet_step(net, observations, episode_start);
 *     puffernet_act(net, NULL, actions);
 *     puffernet_close(net);
 *
 * R rows step side by side, each with a memory of its own. I numbers of an observation, A options
 * of all choices together. An action is a number from 0 on for each choice, or real numbers, not
 * clipped. puffer-policies wrote this file, and the header that names the sizes; MIT license. */
#ifndef PUFFERNET_H
#define PUFFERNET_H

#include <stddef.h>
#include <stdint.h>

#define PUFFERNET_ERROR 256

typedef struct {
    size_t observations; /* I */
    size_t hidden;
    size_t layers;
    size_t alignment; /* numbers between the starts of tensors: 8, or 4 for the float build */
    size_t choices;
    const size_t *options; /* of each choice; all 1 if actions are real numbers */
} puffernet_sizes;

typedef struct {
    puffernet_sizes sizes;
    size_t rows;    /* R */
    size_t outputs; /* A + 1 */
    int continuous;
    float *weights;
    const float *encoder, *decoder, *log_std, *layers;
    float *state;  /* (R, layers, hidden) */
    float *result; /* (R, A + 1): logits or means, then the value */
    float *x, *gates;
} puffernet;

/* Returns NULL with a text in `error` where the file is missing or not of these sizes. */
puffernet *puffernet_open(const char *path, const puffernet_sizes *sizes, size_t rows, char *error);

void puffernet_close(puffernet *net);

/* observations (R, I); episode_start (R), not 0 where an observation is the first of its episode,
 * or NULL. Such a row forgets before it steps. Returns net->result. */
const float *puffernet_step(puffernet *net, const float *observations,
                            const unsigned char *episode_start);

/* The likeliest action of each row after a step, or the means: (R, choices). mask (R, A) is 0 where
 * an option is forbidden, or NULL; each choice needs an option that is not. */
void puffernet_act(const puffernet *net, const unsigned char *mask, float *actions);

/* A random action of each row in its place; `seed` is any number, and changes with each call. */
void puffernet_sample(const puffernet *net, const unsigned char *mask, uint64_t *seed,
                      float *actions);

#endif

#if defined(PUFFERNET_IMPLEMENTATION) && !defined(PUFFERNET_IMPLEMENTED)
#define PUFFERNET_IMPLEMENTED
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t puffernet_aligned(size_t number, size_t alignment) {
    return (number + alignment - 1) / alignment * alignment;
}

/* Reads up to `most` little-endian numbers of a file; returns its bytes, of which a few more than
 * these are counted. */
static size_t puffernet_read(FILE *file, float *weights, size_t most) {
    unsigned char bytes[4];
    size_t count, length;
    for (count = 0; (length = fread(bytes, 1, 4, file)) == 4 && count < most; count++) {
        uint32_t bits = (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
                        (uint32_t)bytes[3] << 24;
        memcpy(&weights[count], &bits, 4);
    }
    return 4 * count + length;
}

puffernet *puffernet_open(const char *path, const puffernet_sizes *sizes, size_t rows,
                          char *error) {
    size_t hidden = sizes->hidden, width = 3 * hidden * hidden, options = 0, continuous = 1, k;
    size_t counts[3], starts[4], count, end, bytes = 0;
    puffernet *net;
    FILE *file;
    for (k = 0; k < sizes->choices; k++) {
        options += sizes->options[k];
        continuous = continuous && sizes->options[k] == 1;
    }
    counts[0] = hidden * sizes->observations;
    counts[1] = (options + 1) * hidden;
    counts[2] = continuous ? options : 0;
    for (k = 0, starts[0] = 0; k < 3; k++)
        starts[k + 1] = puffernet_aligned(starts[k] + counts[k], sizes->alignment);
    count = counts[0] + counts[1] + counts[2] + sizes->layers * width;
    end = starts[3] + sizes->layers * puffernet_aligned(width, sizes->alignment);

    net = calloc(1, sizeof *net);
    file = fopen(path, "rb");
    if (net) {
        net->sizes = *sizes;
        net->rows = rows;
        net->outputs = options + 1;
        net->continuous = (int)continuous;
        net->weights = calloc(end + 1, sizeof(float)); /* zeros where the file is cut */
        net->state = calloc(rows * sizes->layers * hidden + 1, sizeof(float));
        net->result = calloc(rows * net->outputs + 1, sizeof(float));
        net->x = calloc(hidden + 1, sizeof(float));
        net->gates = calloc(3 * hidden + 1, sizeof(float));
    }
    if (!net || !net->weights || !net->state || !net->result || !net->x || !net->gates) {
        snprintf(error, PUFFERNET_ERROR, "There is no memory for a PufferNet.");
    } else if (!file) {
        snprintf(error, PUFFERNET_ERROR, "%.150s can't be opened.", path);
    } else if ((bytes = puffernet_read(file, net->weights, end)) % 4 || bytes < 4 * count ||
               bytes > 4 * end) {
        snprintf(error, PUFFERNET_ERROR,
                 "%.100s has %lu bytes%s; a net of these sizes has %lu numbers in %lu bytes.", path,
                 (unsigned long)bytes, bytes > 4 * end ? " or more" : "", (unsigned long)count,
                 (unsigned long)(4 * count));
    } else {
        net->encoder = net->weights;
        net->decoder = net->weights + starts[1];
        net->log_std = net->weights + starts[2];
        net->layers = net->weights + starts[3];
        fclose(file);
        return net;
    }
    if (file) fclose(file);
    puffernet_close(net);
    return NULL;
}

void puffernet_close(puffernet *net) {
    if (!net) return;
    free(net->weights);
    free(net->state);
    free(net->result);
    free(net->x);
    free(net->gates);
    free(net);
}

static float puffernet_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

static void puffernet_linear(const float *weights, const float *x, size_t inputs, float *y,
                             size_t outputs) {
    size_t i, o;
    for (o = 0; o < outputs; o++, weights += inputs) {
        float sum = 0.0f;
        for (i = 0; i < inputs; i++) sum += weights[i] * x[i];
        y[o] = sum;
    }
}

const float *puffernet_step(puffernet *net, const float *observations,
                            const unsigned char *episode_start) {
    size_t hidden = net->sizes.hidden, layers = net->sizes.layers, row, layer, i;
    size_t stride = puffernet_aligned(3 * hidden * hidden, net->sizes.alignment);
    for (row = 0; row < net->rows; row++) {
        float *state = net->state + row * layers * hidden, *x = net->x, *gates = net->gates;
        if (episode_start && episode_start[row])
            memset(state, 0, layers * hidden * sizeof(float));
        puffernet_linear(net->encoder, observations + row * net->sizes.observations,
                         net->sizes.observations, x, hidden);
        for (layer = 0; layer < layers; layer++, state += hidden) {
            puffernet_linear(net->layers + layer * stride, x, hidden, gates, 3 * hidden);
            for (i = 0; i < hidden; i++) {
                float input = gates[i], share = puffernet_sigmoid(gates[2 * hidden + i]);
                float candidate = input >= 0.0f ? input + 0.5f : puffernet_sigmoid(input);
                state[i] += puffernet_sigmoid(gates[hidden + i]) * (candidate - state[i]);
                x[i] += share * (state[i] - x[i]);
            }
        }
        puffernet_linear(net->decoder, x, hidden, net->result + row * net->outputs, net->outputs);
    }
    return net->result;
}

void puffernet_act(const puffernet *net, const unsigned char *mask, float *actions) {
    size_t row, k, i;
    for (row = 0; row < net->rows; row++) {
        const float *logits = net->result + row * net->outputs;
        for (k = 0; k < net->sizes.choices; k++) {
            size_t options = net->sizes.options[k], best = options;
            for (i = 0; i < options; i++)
                if ((!mask || mask[i]) && (best == options || logits[i] > logits[best])) best = i;
            *actions++ = net->continuous ? logits[0] : (float)(best == options ? 0 : best);
            logits += options;
            if (mask) mask += options;
        }
    }
}

/* The next number of splitmix64, from 0 to below 1. */
static double puffernet_uniform(uint64_t *seed) {
    uint64_t z = (*seed += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

void puffernet_sample(const puffernet *net, const unsigned char *mask, uint64_t *seed,
                      float *actions) {
    size_t row, k, i;
    puffernet_act(net, mask, actions);
    for (row = 0; row < net->rows; row++) {
        const float *logits = net->result + row * net->outputs;
        for (k = 0; k < net->sizes.choices; k++, actions++) {
            size_t options = net->sizes.options[k];
            double u = puffernet_uniform(seed), total = 0.0;
            if (net->continuous) {
                double angle = 6.283185307179586 * puffernet_uniform(seed);
                double normal = sqrt(-2.0 * log(1.0 - u)) * cos(angle);
                *actions += (float)(exp(net->log_std[k]) * normal);
            } else { /* `actions` has the likeliest option, whose probability is 1 / total */
                float largest = logits[(size_t)*actions];
                for (i = 0; i < options; i++)
                    if (!mask || mask[i]) total += exp(logits[i] - largest);
                u *= total;
                for (i = 0; i < options; i++) {
                    if (mask && !mask[i]) continue;
                    u -= exp(logits[i] - largest);
                    if (u < 0.0) break;
                }
                if (i < options) *actions = (float)i;
            }
            logits += options;
            if (mask) mask += options;
        }
    }
}
#endif
