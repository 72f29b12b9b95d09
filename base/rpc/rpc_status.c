/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Status codes of gRPC and errnos, in one table.
 *
 * S1  The first row of a code is its errno; every code has one, and the way code -> errno -> code
 *     gives the same code (checked by a test over all codes).
 * S2  What is not in the table is never mistaken for success.
 *
 * Choices: FAILED_PRECONDITION is EBUSY (the object's state forbids it: in use, exported), not
 * EPERM, which people read as a matter of rights. ABORTED is EAGAIN: a retry may succeed.
 * UNAVAILABLE is ENOTCONN, neutral between "refused" and "lost on the way".
 */
#include <errno.h>
#include <grpc/status.h>

#include "base/rpc/rpc_core.h"

static_assert(RPC_OK == (int)GRPC_STATUS_OK, "same numbers");
static_assert(RPC_UNAUTHENTICATED == (int)GRPC_STATUS_UNAUTHENTICATED, "same numbers");

static const struct {
	enum rpc_code code;
	int error;
} status_table[] = {
	{RPC_OK, 0},
	{RPC_CANCELLED, ECANCELED},
	{RPC_UNKNOWN, EREMOTEIO},
	{RPC_INVALID_ARGUMENT, EINVAL},
	{RPC_INVALID_ARGUMENT, EILSEQ},
	{RPC_INVALID_ARGUMENT, EDOM},
	{RPC_INVALID_ARGUMENT, ENAMETOOLONG},
	{RPC_DEADLINE_EXCEEDED, ETIMEDOUT},
	{RPC_NOT_FOUND, ENOENT},
	{RPC_NOT_FOUND, ENODEV},
	{RPC_NOT_FOUND, ENXIO},
	{RPC_NOT_FOUND, ESRCH},
	{RPC_ALREADY_EXISTS, EEXIST},
	{RPC_PERMISSION_DENIED, EACCES},
	{RPC_PERMISSION_DENIED, EPERM},
	{RPC_RESOURCE_EXHAUSTED, ENOSPC},
	{RPC_RESOURCE_EXHAUSTED, ENOMEM},
	{RPC_RESOURCE_EXHAUSTED, EDQUOT},
	{RPC_RESOURCE_EXHAUSTED, EMFILE},
	{RPC_RESOURCE_EXHAUSTED, ENFILE},
	{RPC_RESOURCE_EXHAUSTED, ENOBUFS},
	{RPC_RESOURCE_EXHAUSTED, EMSGSIZE},
	{RPC_FAILED_PRECONDITION, EBUSY},
	{RPC_FAILED_PRECONDITION, ENOTEMPTY},
	{RPC_FAILED_PRECONDITION, EROFS},
	{RPC_FAILED_PRECONDITION, EADDRINUSE},
	{RPC_ABORTED, EAGAIN},
	{RPC_ABORTED, ESTALE},
	{RPC_ABORTED, EALREADY},
	{RPC_ABORTED, EINPROGRESS},
	{RPC_ABORTED, EINTR},
	{RPC_ABORTED, EDEADLK},
	{RPC_OUT_OF_RANGE, ERANGE},
	{RPC_OUT_OF_RANGE, EOVERFLOW},
	{RPC_OUT_OF_RANGE, EFBIG},
	{RPC_UNIMPLEMENTED, ENOSYS},
	{RPC_UNIMPLEMENTED, EOPNOTSUPP},
	{RPC_UNIMPLEMENTED, EPROTONOSUPPORT},
	{RPC_INTERNAL, EPROTO},
	{RPC_UNAVAILABLE, ENOTCONN},
	{RPC_UNAVAILABLE, ECONNREFUSED},
	{RPC_UNAVAILABLE, ECONNRESET},
	{RPC_UNAVAILABLE, ECONNABORTED},
	{RPC_UNAVAILABLE, EPIPE},
	{RPC_UNAVAILABLE, EHOSTUNREACH},
	{RPC_UNAVAILABLE, ENETUNREACH},
	{RPC_UNAVAILABLE, EHOSTDOWN},
	{RPC_UNAVAILABLE, ESHUTDOWN},
	{RPC_DATA_LOSS, EIO},
	{RPC_DATA_LOSS, EBADMSG},
	{RPC_DATA_LOSS, EUCLEAN},
	{RPC_UNAUTHENTICATED, EKEYREJECTED},
};

enum rpc_code rpc_code_of_errno(int error)
{
	int positive = error < 0 ? -error : error;
	for (size_t i = 0; i < ARRAY_LEN(status_table); i++) {
		if (status_table[i].error == positive)
			return status_table[i].code;
	}
	return RPC_INTERNAL;
}

int rpc_errno_of_code(int code)
{
	for (size_t i = 0; i < ARRAY_LEN(status_table); i++) {
		if ((int)status_table[i].code == code)
			return -status_table[i].error;
	}
	return -EREMOTEIO;
}

const char *rpc_code_name(int code)
{
	static const char *const names[] = {
		"OK",
		"CANCELLED",
		"UNKNOWN",
		"INVALID_ARGUMENT",
		"DEADLINE_EXCEEDED",
		"NOT_FOUND",
		"ALREADY_EXISTS",
		"PERMISSION_DENIED",
		"RESOURCE_EXHAUSTED",
		"FAILED_PRECONDITION",
		"ABORTED",
		"OUT_OF_RANGE",
		"UNIMPLEMENTED",
		"INTERNAL",
		"UNAVAILABLE",
		"DATA_LOSS",
		"UNAUTHENTICATED",
	};
	if (code < 0 || (size_t)code >= ARRAY_LEN(names))
		return "UNKNOWN";
	return names[code];
}
