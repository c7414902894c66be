#pragma once
/* The names that ever registered, in the broker's store, until they are forgotten. */

#include "broker/broker.h"

/* At start: the router gets a service for each. */
int names_load(struct broker *broker);

/*
 * Stores what @request says about its names, if it is new. 0: nothing was new; 1: @done will be called
 * on the loop's thread when it is on disk; negative: it failed. @ret_need_schema: a schema is
 * wanted with the next heartbeat.
 */
int names_keep(struct broker *broker, const struct registry_register_request *request,
	       bool *ret_need_schema, void (*done)(void *userdata, int r), void *userdata);
/* 0: @done will be called on the loop's thread; or -ENOMEM. */
int names_forget(struct broker *broker, const char *name, void (*done)(void *userdata, int r),
		 void *userdata);
/* 0, LOG_E_NOT_FOUND, LOG_E_DAMAGED or negative. */
int names_find(struct broker *broker, const char *name, struct broker_name_record *ret_record);
