/* SPDX-License-Identifier: Apache-2.0 */
/* holdfast: the command line of a cluster. Everything is in the library, where tests reach it. */
#include "cli/cli.h"

int main(int argc, char *argv[])
{
	return cli_main(argc, argv);
}
