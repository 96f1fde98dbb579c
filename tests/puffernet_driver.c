/* Steps a PufferNet on what stdin holds, and writes what it answers; test_c_reader.py runs it.
 *
 * puffernet_driver FILE I H L ALIGNMENT ROWS MASKED SEED OPTIONS...
 * A step on stdin: observations (ROWS, I) float, starts (ROWS) bytes, and with MASKED a mask
 * (ROWS, A) bytes. A step on stdout: logits and values, the likeliest actions, and random ones. */
#define PUFFERNET_IMPLEMENTATION
#include "puffernet.h"

static size_t number(const char *text) { return (size_t)strtoul(text, NULL, 10); }

int main(int argc, char **argv) {
    char error[PUFFERNET_ERROR];
    size_t options[16], all = 0, i, rows = number(argv[6]), masked = number(argv[7]);
    puffernet_sizes sizes = {0, 0, 0, 0, 0, NULL};
    uint64_t seed = number(argv[8]);
    float *observations, *actions;
    unsigned char *starts, *mask;
    puffernet *net;
    sizes.observations = number(argv[2]);
    sizes.hidden = number(argv[3]);
    sizes.layers = number(argv[4]);
    sizes.alignment = number(argv[5]);
    sizes.choices = (size_t)argc - 9;
    sizes.options = options;
    for (i = 0; i < sizes.choices; i++) all += options[i] = number(argv[9 + i]);
    net = puffernet_open(argv[1], &sizes, rows, error);
    if (!net) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    observations = calloc(rows * sizes.observations, sizeof(float));
    actions = calloc(rows * sizes.choices, sizeof(float));
    starts = calloc(rows, 1);
    mask = calloc(rows * all, 1);
    while (fread(observations, sizeof(float), rows * sizes.observations, stdin) ==
           rows * sizes.observations) {
        if (fread(starts, 1, rows, stdin) != rows) return 1;
        if (masked && fread(mask, 1, rows * all, stdin) != rows * all) return 1;
        puffernet_step(net, observations, starts);
        fwrite(net->result, sizeof(float), rows * net->outputs, stdout);
        puffernet_act(net, masked ? mask : NULL, actions);
        fwrite(actions, sizeof(float), rows * sizes.choices, stdout);
        puffernet_sample(net, masked ? mask : NULL, &seed, actions);
        fwrite(actions, sizeof(float), rows * sizes.choices, stdout);
    }
    free(observations);
    free(actions);
    free(starts);
    free(mask);
    puffernet_close(net);
    return 0;
}
