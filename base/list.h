/* SPDX-License-Identifier: Apache-2.0 */
/* Doubly linked intrusive list with a sentinel. A node that is on no list is self-linked or zero. */
#ifndef HF_BASE_LIST_H
#define HF_BASE_LIST_H

#include "base/types.h"

struct list {
	struct list *next;
	struct list *prev;
};

#define LIST_INIT(name)          \
	{                        \
		&(name), &(name) \
	}

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}
/* True while the node is linked into a list; zeroed nodes count as unlinked. */
static inline bool list_linked(const struct list *n)
{
	return n->next != NULL && n->next != n;
}
static inline void list_insert_(struct list *n, struct list *prev, struct list *next)
{
	n->prev = prev;
	n->next = next;
	prev->next = n;
	next->prev = n;
}
static inline void list_push_back(struct list *l, struct list *n)
{
	list_insert_(n, l->prev, l);
}
static inline void list_push_front(struct list *l, struct list *n)
{
	list_insert_(n, l, l->next);
}
/* Safe on a node that is on no list. */
static inline void list_remove(struct list *n)
{
	if (n->next == NULL)
		return;
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}
/* First node removed, or NULL when empty. */
static inline struct list *list_pop_front(struct list *l)
{
	struct list *n = l->next;
	if (n == l)
		return NULL;
	list_remove(n);
	return n;
}
/* Moves all nodes of `from` to the end of `to`. */
static inline void list_splice_back(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define list_for_each(pos, head) \
	for (struct list *pos = (head)->next; pos != (head); pos = pos->next)
#define list_for_each_safe(pos, head)                                                  \
	for (struct list *pos = (head)->next, *pos##_next_ = pos->next; pos != (head); \
	     pos = pos##_next_, pos##_next_ = pos->next)

#endif
