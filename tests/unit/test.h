/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One spelling for tests: TEST(subject, behaviour) { ... }.
 *
 * Criterion runs them, except under ThreadSanitizer, where Criterion does not start; there the
 * same bodies run under the small runner below (-DTEST_OWN_RUNNER).
 */
#ifndef HF_TESTS_UNIT_TEST_H
#define HF_TESTS_UNIT_TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef TEST_OWN_RUNNER
#include <criterion/criterion.h>
#define TEST(subject, behaviour) Test(subject, behaviour, .timeout = 60)
#define CHECK(cond, ...)         cr_assert(cond, "" __VA_ARGS__)
#else

struct test_case {
	const char *name;
	void (*body)(void);
	struct test_case *next;
};
extern struct test_case *test_cases;

#define TEST(subject, behaviour)                                                   \
	static void test_##subject##_##behaviour(void);                            \
	static struct test_case case_##subject##_##behaviour = {                   \
		#subject "::" #behaviour, test_##subject##_##behaviour, NULL};     \
	__attribute__((constructor)) static void reg_##subject##_##behaviour(void) \
	{                                                                          \
		case_##subject##_##behaviour.next = test_cases;                    \
		test_cases = &case_##subject##_##behaviour;                        \
	}                                                                          \
	static void test_##subject##_##behaviour(void)
#define CHECK(cond, ...)                                                                   \
	do {                                                                               \
		if (!(cond)) {                                                             \
			fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #cond); \
			abort();                                                           \
		}                                                                          \
	} while (0)

/* One translation unit per test binary, so the runner may live here: one child per test. */
#include <sys/wait.h>
#include <unistd.h>
struct test_case *test_cases;
int main(void)
{
	int passed = 0, failed = 0;
	for (struct test_case *t = test_cases; t; t = t->next) {
		fflush(NULL);
		pid_t pid = fork();
		if (pid == 0) {
			t->body();
			fflush(NULL);
			_exit(0);
		}
		int status = -1;
		waitpid(pid, &status, 0);
		if (status == 0) {
			passed++;
		} else {
			failed++;
			printf("FAILED %s (status %d)\n", t->name, status);
		}
	}
	printf("[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: 0\n",
	       passed + failed, passed, failed);
	return failed != 0;
}
#endif

#define CHECK_EQ(a, b)                                                                             \
	do {                                                                                       \
		long long check_a_ = (long long)(a), check_b_ = (long long)(b);                    \
		CHECK(check_a_ == check_b_, "%s is %lld, %s is %lld", #a, check_a_, #b, check_b_); \
	} while (0)
#define CHECK_STR(a, b)                                                                       \
	do {                                                                                  \
		const char *check_a_ = (a), *check_b_ = (b);                                  \
		CHECK(strcmp(check_a_, check_b_) == 0, "%s is '%s', want '%s'", #a, check_a_, \
		      check_b_);                                                              \
	} while (0)

#endif
