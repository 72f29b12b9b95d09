/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file form of a configuration: one flat YAML mapping, read event by event.
 *
 * R1 Nothing is built that the table does not know: no nesting, no anchors, no aliases, so a
 *    file cannot make the reader use more memory than its own size.
 * R2 Every refusal carries the file's name and the line of the offending word.
 */
#include <errno.h>
#include <yaml.h>

#include "base/config_int.h"

struct reader {
	struct config_load *load;
	const char *file_name;
	yaml_parser_t parser;
	yaml_event_t event; /* the current one */
	bool has_event;
	struct err *err;
};

static int reader_refuse(struct reader *r, int code, size_t line)
{
	return err_wrap(r->err, code, "%s:%zu", r->file_name, line + 1);
}

static int reader_next(struct reader *r)
{
	if (r->has_event)
		yaml_event_delete(&r->event);
	r->has_event = yaml_parser_parse(&r->parser, &r->event) == 1;
	if (r->has_event)
		return 0;
	const char *problem = r->parser.problem ? r->parser.problem : "not YAML";
	err_set(r->err, -EINVAL, "%s", problem);
	return reader_refuse(r, -EINVAL, r->parser.problem_mark.line);
}

static const char *reader_scalar(struct reader *r)
{
	const char *text = (const char *)r->event.data.scalar.value;
	bool whole = strlen(text) == r->event.data.scalar.length;
	return r->event.type == YAML_SCALAR_EVENT && whole ? text : NULL;
}

static int reader_store(struct reader *r, int index)
{
	const char *name = r->load->table->options[index].name;
	size_t line = r->event.start_mark.line;
	const char *text = r->event.type == YAML_SCALAR_EVENT ? reader_scalar(r) : NULL;
	int rc;
	if (!text)
		rc = err_set(r->err, -EINVAL,
			     "%s takes plain text, not a mapping, a list or an alias", name);
	else if (!text[0] && r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
		rc = err_set(r->err, -EINVAL, "%s has no value", name);
	else
		rc = config_store(r->load, index, text, r->err);
	return rc < 0 ? reader_refuse(r, rc, line) : 0;
}

static int reader_list(struct reader *r, int index)
{
	for (;;) {
		int rc = reader_next(r);
		if (rc < 0)
			return rc;
		if (r->event.type == YAML_SEQUENCE_END_EVENT)
			return 0;
		rc = reader_store(r, index);
		if (rc < 0)
			return rc;
	}
}

/* The current event is a key. */
static int reader_pair(struct reader *r)
{
	size_t line = r->event.start_mark.line;
	const char *name = r->event.type == YAML_SCALAR_EVENT ? reader_scalar(r) : NULL;
	if (!name) {
		err_set(r->err, -EINVAL, "a key is not plain text");
		return reader_refuse(r, -EINVAL, line);
	}
	int index = config_find(r->load->table, "", name, r->err);
	if (index < 0)
		return reader_refuse(r, -EINVAL, line);
	if (r->load->given[index] == r->file_name) {
		err_set(r->err, -EINVAL, "%s is given twice", name);
		return reader_refuse(r, -EINVAL, line);
	}
	config_note(r->load, index, r->file_name);
	int rc = reader_next(r);
	if (rc < 0)
		return rc;
	if (r->event.type == YAML_SEQUENCE_START_EVENT &&
	    r->load->table->options[index].type == CONFIG_STRINGS)
		return reader_list(r, index);
	return reader_store(r, index);
}

static int reader_document(struct reader *r)
{
	int rc = reader_next(r);
	if (rc < 0)
		return rc;
	if (r->event.type == YAML_SCALAR_EVENT && r->event.data.scalar.length == 0)
		return reader_next(r); /* "---" alone */
	if (r->event.type != YAML_MAPPING_START_EVENT) {
		err_set(r->err, -EINVAL, "the file is not a list of 'key: value' lines");
		return reader_refuse(r, -EINVAL, r->event.start_mark.line);
	}
	while ((rc = reader_next(r)) == 0 && r->event.type != YAML_MAPPING_END_EVENT) {
		rc = reader_pair(r);
		if (rc < 0)
			return rc;
	}
	return rc < 0 ? rc : reader_next(r); /* the document's end */
}

static int reader_run(struct reader *r)
{
	bool seen = false;
	int rc;
	while ((rc = reader_next(r)) == 0 && r->event.type != YAML_STREAM_END_EVENT) {
		if (r->event.type != YAML_DOCUMENT_START_EVENT)
			continue;
		if (seen) {
			err_set(r->err, -EINVAL, "a second document begins");
			return reader_refuse(r, -EINVAL, r->event.start_mark.line);
		}
		seen = true;
		rc = reader_document(r);
		if (rc < 0)
			return rc;
	}
	return rc;
}

int config_read_yaml(struct config_load *load, const char *file_name, const char *text,
		     size_t text_bytes, struct err *err)
{
	struct reader r = {.load = load, .file_name = file_name, .err = err};
	if (!yaml_parser_initialize(&r.parser))
		return err_set(err, -ENOMEM, "%s: out of memory", file_name);
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, text_bytes);
	int rc = reader_run(&r);
	if (r.has_event)
		yaml_event_delete(&r.event);
	yaml_parser_delete(&r.parser);
	return rc;
}
