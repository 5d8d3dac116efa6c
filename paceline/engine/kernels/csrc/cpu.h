/* What this CPU and its system can run. */
#ifndef PACELINE_CPU_H
#define PACELINE_CPU_H

#include <stdbool.h>

bool cpu_has_avx2(void); /* with FMA and F16C */
bool cpu_has_avxvnni(void);
bool cpu_has_avx512(void);
bool cpu_has_avx512vnni(void);
bool cpu_has_amx(void); /* and the system lets this process use it */

#endif
