/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of struct env that are the same in every world. */
#include "base/env.h"

/* A version 4 uuid: 122 random bits. */
void env_random_uuid(struct env *env, struct uuid *ret)
{
	uint64_t words[2] = {env_random(env), env_random(env)};
	memcpy(ret->bytes, words, sizeof(ret->bytes));
	ret->bytes[6] = (ret->bytes[6] & 0x0f) | 0x40;
	ret->bytes[8] = (ret->bytes[8] & 0x3f) | 0x80;
}

void env_disk_info(struct env *env, struct env_disk *disk, struct env_disk_info *ret)
{
	env->ops->disk_info(disk, ret);
}
