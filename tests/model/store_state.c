/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The model's volumes and places, what the outside has seen of them, and whether that is kept.
 */
#include "tests/model/store_state.h"

#include <string.h>

void store_violate(struct state *s, u8 violation)
{
	if (!s->violated)
		s->violated = violation;
}

entry *store_vol_entry(struct vol_image *v, int i)
{
	return i == 0 ? &v->base : &v->tail[i - 1];
}

u8 store_image_places(const struct image *image)
{
	u8 places = 0;
	for (int v = 0; v < VOLS; v++) {
		struct vol_image copy = image->vol[v];
		for (int i = 0; i <= copy.tail_count; i++)
			places |= place_bit(entry_place(*store_vol_entry(&copy, i)));
	}
	return places;
}

void store_vol_append(struct vol_image *v, entry e)
{
	if (v->tail_count == TAIL_MAX) { /* the coordinator moved K on, or it could not go on */
		v->base = v->tail[0];
		v->seq++;
		memmove(v->tail, v->tail + 1, sizeof(v->tail) - sizeof(v->tail[0]));
		v->tail_count--;
	}
	v->tail[v->tail_count++] = e;
}

void store_vol_fold(struct vol_image *v)
{
	if (v->tail_count == 0)
		return;
	v->base = v->tail[v->tail_count - 1];
	v->seq = vol_last(v);
	v->tail_count = 0;
	memset(v->tail, 0, sizeof(v->tail));
}

u8 store_place_free(const struct config *c, u8 used)
{
	for (u8 p = 1; p <= c->places; p++) {
		if (!(used & place_bit(p)))
			return p;
	}
	return 0;
}

u8 store_places_used(const struct state *s)
{
	u8 used = store_image_places(&s->cur) | s->pins_root | s->pins_old | s->pins_new;
	return s->root_pending ? used | store_image_places(&s->writing) : used;
}

/* ---- what the outside has seen ---- */

u8 store_last_submitted(const struct state *s, int v)
{
	u8 last = vol_last(&s->cur.vol[v]);
	for (u8 no = s->stable + 1; no < s->cur.next; no++) {
		const struct desc *d = desc_read(s, no);
		last += d->vol == v && (d->kind == INLINE || d->kind == REDIRECT);
	}
	return last;
}

/* Mutant: the end of the volume's own durable records, whatever is missing between them. */
static u8 last_per_volume(const struct state *s, int v)
{
	u8 last = vol_last(&s->cur.vol[v]);
	for (u8 no = s->stable + 1; no < s->cur.next; no++) {
		const struct desc *d = desc_read(s, no);
		if (d->vol != v || (d->kind != INLINE && d->kind != REDIRECT))
			continue;
		if (!(s->done >> (no - s->stable - 1) & 1))
			break;
		last++;
	}
	return last;
}

static void expose(struct state *s, int v, u8 last, u8 why)
{
	if (s->cur.vol[v].suspect || last <= s->exposed[v])
		return;
	s->exposed[v] = last;
	s->why[v] = why;
}

void store_answer(const struct config *c, struct state *s)
{
	for (int v = 0; v < VOLS; v++) {
		struct vol_image *vol = &s->cur.vol[v];
		expose(s, v, c->ack_per_volume ? last_per_volume(s, v) : vol_last(vol), BY_ACK);
		if (c->look_up_before_stable)
			expose(s, v, store_last_submitted(s, v), BY_READ);
		bool witnessed = s->mark_no[v] && s->mark_no[v] <= s->witnessed;
		if (s->mark_no[v] && (witnessed || c->mark_before_witness)) {
			s->answered[v] = vol->mark;
			s->mark_no[v] = 0;
		}
	}
}

void store_check_payloads(struct state *s, struct image *image)
{
	for (int v = 0; v < VOLS; v++) {
		struct vol_image *vol = &image->vol[v];
		for (int i = 0; i <= vol->tail_count; i++) {
			entry e = *store_vol_entry(vol, i);
			u8 found = payload_read(s, entry_place(e));
			if (entry_val(e) && !vol->suspect && found != entry_val(e) &&
			    found != ROTTEN)
				store_violate(s, V_PAYLOAD);
		}
	}
}

void store_check_vote(struct state *s, struct image *image)
{
	store_check_payloads(s, image);
	for (int v = 0; v < VOLS; v++) {
		struct vol_image *vol = &image->vol[v];
		u8 last = vol_last(vol);
		if (vol->mark != MARK_WORST && vol->mark < s->answered[v])
			store_violate(s, V_PROMISE);
		if (vol->suspect) {
			if (!s->rots)
				store_violate(s, V_SUSPECT);
			continue;
		}
		if (last < s->exposed[v])
			store_violate(s, (u8)(V_ACK + s->why[v]));
		for (int i = 0; i <= vol->tail_count; i++) {
			u8 seq = (u8)(vol->seq + i);
			u8 want = seq ? s->log[v][seq - 1] : 0;
			if (entry_val(*store_vol_entry(vol, i)) != want)
				store_violate(s, V_PREFIX);
		}
		memset(s->log[v] + last, 0, (size_t)(SEQ_MAX - last)); /* voted absent */
		s->exposed[v] = last;
		s->why[v] = BY_VOTE;
		s->answered[v] = vol->mark;
	}
}
