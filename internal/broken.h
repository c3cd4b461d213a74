/* broken.h: rules of the protocol that one build of the simulation, and the chaos build, break on
 * purpose, one at a time, to prove that they would notice (docs/reliability.md). In every other
 * build BROKEN() is a constant false, and nothing of it is left. */
#ifndef SJE_BROKEN_H
#define SJE_BROKEN_H

/* X(rule, what is broken) */
#define BROKEN_RULES(X)                                                                            \
    X(FENCE, "a report counts whatever its attempt and token")                                     \
    X(FINAL, "a result counts although the task has ended")                                        \
    X(CANCELLED, "a cancelled task is granted")                                                    \
    X(SEQ, "rows are written without comparing seq")                                               \
    X(EPOCH, "an earlier leader's statements are executed")                                        \
    X(MARGIN, "the manager's deadline has no margin over the worker's")                            \
    X(FREEZE, "the reaper is not frozen while its manager is deaf or new")                         \
    X(GRACE_WAIT, "a new leader does not wait for what its predecessor may still renew")           \
    X(GRACE_END, "a leader without its database answers beats for ever")                           \
    X(CLAIMING, "an attempt whose grant is on its way is lost to a beat that does not list it")    \
    X(SHIM_LEASE, "the shim does not end its task when the lease is over")                         \
    X(ACK, "a hint is acked before its attempt is granted")                                        \
    X(PARTS, "of a hint with several tasks only the first is looked at")                           \
    X(ASK_ALL, "a claim without answer is sent to the same manager again")                         \
    X(WATCH, "nobody looks whether a consumer was forgotten by the broker")                        \
    X(SURVIVORS, "a restarted worker does not look for survivors")                                 \
    X(HINTS, "lost hints are never published again")                                               \
    X(LEASE_DATA, "a lease is as long as the setting of whoever asks, not as granted")             \
    X(IDENTITY, "workers are told apart by their names alone")                                     \
    X(WITNESS, "the time of a machine that was stopped is its CLOCK_BOOTTIME's")                   \
    X(CAPABLE, "a worker starts what does not fit, or what it does not offer")                     \
    X(RETURN, "what a node could not start counts as a failure")

/* Those that the simulation would not notice: in it nobody repeats for long what a
 * dead worker said. */
#define CHAOS_RULES(Y) Y(STALE, "a beat counts although a later one was heard")

#ifdef SJE_BREAK
enum broken_rule {
    BROKEN_NONE,
#define X(rule, text) BROKEN_##rule,
    BROKEN_RULES(X) CHAOS_RULES(X)
#undef X
};
extern enum broken_rule sje_broken;
#define BROKEN(rule) (sje_broken == BROKEN_##rule)
#else
#define BROKEN(rule) 0
#endif

#endif
