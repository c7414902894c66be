#include "broker/lib/utc.h"

#include <stdio.h>

#define DAY_S             86400
#define ERA_DAYS          146097       /* 400 years */
#define DAYS_TO_1970      719468       /* from 0000-03-01 */
#define LAST_SECOND       253402300799 /* 9999-12-31T23:59:59 */
#define ERA_YEARS         400
#define DAYS_OF_4_YEARS   1460
#define DAYS_OF_100_YEARS 36524

/*
 * The proleptic Gregorian calendar, with years that begin in March, so that the leap day is a year's last:
 * Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days().
 */
void utc_format(uint64_t seconds, char ret_text[UTC_SIZE])
{
	uint64_t at = seconds > LAST_SECOND ? LAST_SECOND : seconds;
	unsigned days = (unsigned)(at / DAY_S) + DAYS_TO_1970, second = (unsigned)(at % DAY_S);
	unsigned era = days / ERA_DAYS, day_of_era = days % ERA_DAYS;
	unsigned year_of_era = (day_of_era - day_of_era / DAYS_OF_4_YEARS +
				day_of_era / DAYS_OF_100_YEARS - day_of_era / (ERA_DAYS - 1)) /
			       365;
	unsigned day_of_year = day_of_era -
			       (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	unsigned month_from_march = (5 * day_of_year + 2) / 153;
	unsigned day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
	unsigned month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9;
	unsigned year = year_of_era + era * ERA_YEARS + (month <= 2);

	snprintf(ret_text, UTC_SIZE, "%04u-%02u-%02uT%02u:%02u:%02u", year % 10000, month, day,
		 second / 3600, second / 60 % 60, second % 60);
}
