/* SPDX-License-Identifier: Apache-2.0 */
#include "base/version.h"

#include "version_gen.h"

const char *build_version(void)
{
	return HF_VERSION;
}

const char *build_flags(void)
{
	return HF_BUILD_FLAGS;
}
