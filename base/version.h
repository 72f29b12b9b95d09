/* SPDX-License-Identifier: Apache-2.0 */
/* What was built: compiled into one object, so that a commit does not rebuild the tree. */
#ifndef HF_BASE_VERSION_H
#define HF_BASE_VERSION_H

/* `git describe` of the tree that was built; static. */
const char *build_version(void);
/* Optimisation and sanitizer flags; static. */
const char *build_flags(void);

#endif
