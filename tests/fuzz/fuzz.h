/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the fuzzers share. A fuzzer is one file NAME_fuzz.c with LLVMFuzzerTestOneInput(); its
 * seeds are in corpus/NAME. It feeds foreign bytes to one parser, touches everything that the
 * parser says is valid, and checks what a round trip must keep.
 */
#ifndef HF_TESTS_FUZZ_FUZZ_H
#define HF_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerInitialize(int *argc, char ***argv);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t bytes_max, unsigned seed);
/* libFuzzer's own mutations, for a custom mutator. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t bytes_max);

/* A promise of the code under test; on even in builds without assert(). */
#define FUZZ_CHECK(cond)                                                                     \
	do {                                                                                 \
		if (!(cond)) {                                                               \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #cond); \
			abort();                                                             \
		}                                                                            \
	} while (0)

#endif
