/* Eq. 1 on a paged cache: scores, softmax and sums of values, block by block, without gathering them first. A block is a
 * page, or PAGE tokens of a small one, whose numbers have 8 or 4 bits (kan/kernels/small_pages.py).
 *
 * One work item is a block of rows of one kv head of one sequence (rows.h). A query sees all mounted tokens, and of its
 * context everything up to itself, or what it chooses (routed.h). */
#include "routed.h"

#ifdef KG_AVAILABLE

#include <omp.h>
#include <stdlib.h>

enum {
    BLOCK = 64,             /* most rows of a work item, */
    SCRATCH = 256 * 1024,   /* and most bytes of its scores, unless ROWS rows need more: they should stay in L2 */
    PLACES = 64,            /* most places of one that chooses, */
    ROUTED = 4096 * 1024,   /* and most bytes of its scores: many places share a block, which is more than L2 gives */
    ITEMS = 16,             /* work items wanted, so that all threads have work to the end, */
    EACH = 4                /* and for each thread, where some choose */
};

/* How many of a sequence's blocks, from the first, hold every column that a query and those before it see. */
static int64_t visible_blocks(const Sequence *s, int64_t query)
{
    return s->mounted + (s->computed + query + PAGE) / PAGE;
}

/* One work item that sees everything. */
AVX512 static void attend(const Attention *a, const Item *item, float *masses, Scratch scratch)
{
    const Block *blocks = a->table + item->sequence->first_block;
    const int64_t visible = visible_blocks(item->sequence, query_of(a, item, item->rows - 1));
    pack_queries(a, item, scratch.queries);
    score_blocks(a, item, blocks, visible, visible * PAGE, scratch);
    softmax_rows(a, item, blocks, visible, visible, masses, scratch);
    memset(scratch.sums, 0, (size_t)(item->rows * a->d) * sizeof(float));
    weigh_blocks(a, item, blocks, visible, visible * PAGE, scratch);
    store_sums(a, item, scratch.sums);
}

/* How a call is cut into work items, and what a thread needs for the largest of them. */
typedef struct {
    int64_t rows;    /* most of an item that sees everything, */
    int64_t columns; /* and most of its columns */
    int64_t places;  /* the same of one that chooses */
    int64_t routed;
    int64_t near, context; /* most blocks that are always seen, and most of a context */
    int64_t step, chosen;  /* most pages of what is chosen as one, and most that is chosen */
} Plan;

/* Where the item of a choosing sequence that begins at this query ends: it is in one block. */
static int64_t end_of_places(const Attention *a, const Sequence *s, int64_t query, int64_t places)
{
    const int64_t size = step_of(a, s) * PAGE, block = size - (s->computed + query) % size;
    const int64_t most = block < places ? block : places;
    return query + most < s->queries ? query + most : s->queries;
}

/* Work items; returns how many, and writes them unless `items` is null. The last sequences and their late rows come
 * first: they have the most to do. Those that choose have about the same. */
static int64_t divide(const Attention *a, const Plan *plan, Item *items)
{
    const int64_t group = group_of(a);
    int64_t found = 0;
    for (const Sequence *s = a->sequences + a->count; s-- > a->sequences;) {
        const int64_t rows = s->queries * group;
        for (int64_t query = 0, end; s->level >= 0 && query < s->queries; query = end) {
            end = end_of_places(a, s, query, plan->places);
            for (int64_t head = 0; head < a->kv_heads; head++, found++)
                if (items) items[found] = (Item){s, head, query * group, (end - query) * group};
        }
        for (int64_t first = (rows - 1) / plan->rows * plan->rows; s->level < 0 && first >= 0; first -= plan->rows)
            for (int64_t head = 0; head < a->kv_heads; head++, found++)
                if (items) items[found] = (Item){s, head, first, rows - first < plan->rows ? rows - first : plan->rows};
    }
    return found;
}

static inline int64_t larger(int64_t one, int64_t other) { return one > other ? one : other; }

/* Rows per work item: many share the preparation of a page, few spread the work evenly. */
static Plan plan_of(const Attention *a)
{
    Plan plan = {BLOCK, 0, PLACES, 0, 0, 0, 0, 0};
    for (const Sequence *s = a->sequences; s < a->sequences + a->count; s++)
        if (s->level < 0) {
            plan.columns = larger(plan.columns, s->blocks * PAGE);
        } else {
            plan.near = larger(plan.near, s->mounted + 3 * step_of(a, s));
            plan.step = larger(plan.step, step_of(a, s));
            plan.chosen = larger(plan.chosen, s->chosen);
            plan.context = larger(plan.context, s->blocks - s->mounted);
            plan.routed = larger(plan.routed, (s->mounted + (3 + s->chosen) * step_of(a, s)) * PAGE);
        }
    const int64_t column = (int64_t)sizeof(float), group = group_of(a);
    while (plan.rows > ROWS && plan.rows * plan.columns * column > SCRATCH) plan.rows /= 2;
    while (plan.places > 1 && plan.places * group * plan.routed * column > ROUTED) plan.places /= 2;
    while (plan.places > ROWS && divide(a, &plan, NULL) < EACH * omp_get_max_threads()) plan.places /= 2;
    while (plan.rows > 2 * ROWS && divide(a, &plan, NULL) < ITEMS) plan.rows /= 2;
    return plan;
}

/* So many bytes of `*memory`, which is advanced; counted only while it is null. Whole lines, so that no vector lies in
 * two. */
static void *take(char **memory, size_t *taken, int64_t count, size_t size)
{
    const size_t line = 64, bytes = ((size_t)count * size + line - 1) / line * line;
    void *here = *memory;
    if (*memory) *memory += bytes;
    *taken += bytes;
    return here;
}

static size_t lay_out(const Attention *a, const Plan *plan, char *memory, Scratch *s)
{
    const int64_t choosing = plan->routed ? plan->places : 0, tiles = (group_of(a) + ROWS - 1) / ROWS;
    const int64_t routed = choosing * group_of(a), rows = (larger(plan->rows, routed) + ROWS - 1) / ROWS * ROWS;
    size_t taken = 0;
    s->scores = take(&memory, &taken, larger(plan->rows * plan->columns, routed * plan->routed), sizeof(float));
    s->sums = take(&memory, &taken, rows * a->d, sizeof(float));
    s->queries = take(&memory, &taken, rows * a->d / 2, sizeof(pair));
    s->steps = take(&memory, &taken, 2 * a->d, sizeof(float));
    s->tile = take(&memory, &taken, PAGE / 2 * a->d, sizeof(pair));
    s->near = take(&memory, &taken, plan->near, sizeof(Block));
    s->far = take(&memory, &taken, plan->context, sizeof(Block));
    s->apart = take(&memory, &taken, choosing * tiles * ROWS * a->d / 2, sizeof(pair));
    s->block = take(&memory, &taken, plan->step * PAGE / 2 * a->d, sizeof(pair));
    s->sought = take(&memory, &taken, a->d, sizeof(float));
    s->marks = take(&memory, &taken, plan->context, sizeof(float));
    s->choice = take(&memory, &taken, choosing * plan->chosen, sizeof(int32_t));
    s->cursor = take(&memory, &taken, choosing, sizeof(int32_t));
    s->choosers = take(&memory, &taken, choosing, sizeof(int32_t));
    return taken;
}

static int attend_all(const Attention *a, const Plan *plan, const Item *items, int64_t count, float *masses)
{
    int64_t work = 0;
    int failed = 0;
    for (int64_t i = 0; i < count; i++) work += items[i].rows * items[i].sequence->blocks * PAGE;
#pragma omp parallel if (count > 1 && work >= PARALLEL / 4)
    {
        Scratch scratch;
        char *memory = aligned_alloc(64, lay_out(a, plan, NULL, &scratch));
        if (memory) lay_out(a, plan, memory, &scratch);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count; i++)
            if (memory) (items[i].sequence->level < 0 ? attend : attend_routed)(a, items + i, masses, scratch);
        free(memory);
        if (!memory) {
#pragma omp atomic write
            failed = 1;
        }
    }
    return failed ? NO_MEMORY : DONE;
}

static int in_the_cache(const Attention *a)
{
    for (const Sequence *s = a->sequences; s < a->sequences + a->count; s++)
        for (const Block *block = a->table + s->first_block; block < a->table + s->first_block + s->blocks; block++)
            if (block->number < 0 || block->number / (block->small ? in_page(a) : 1) >= a->cache_pages) return 0;
    return 1;
}

/* Whether all that choose have enough blocks between the first and the one before their own. */
static int can_choose(const Attention *a)
{
    for (const Sequence *s = a->sequences; s < a->sequences + a->count; s++) {
        if (s->level < 0) continue;
        if (!a->means || s->level >= a->levels || s->chosen < 1 || a->smallest < 1) return 0;
        if (s->computed / (step_of(a, s) * PAGE) < s->chosen + 2) return 0;
        if (s->blocks < visible_blocks(s, s->queries - 1)) return 0;
    }
    return 1;
}

static void add_masses(const Attention *a, const float *masses)
{
    for (int64_t h = 0; h < a->heads; h++)
        for (int64_t p = 0; p < a->parts; p++) a->mass[p] += masses[h * a->parts + p];
}

int kg_page_size(void) { return PAGE; }

/* Fields as in `Attention`. */
int kg_attention(const bf16 *q, const bf16 *kv, const bf16 *key_steps, const bf16 *value_steps,
                 const Sequence *sequences, const Block *table, const float *phi, float *mass, bf16 *out,
                 const float *means, int64_t count, int64_t heads, int64_t kv_heads, int64_t d, int64_t cache_pages,
                 int64_t parts, int64_t levels, int64_t smallest, int64_t bits)
{
    const Attention a = {q,   kv,    key_steps, value_steps, sequences,   table, phi,    mass,     out,
                         means, count, heads,     kv_heads,    d,         cache_pages, parts, levels, smallest, bits};
    if ((bits != 8 && bits != 4) || !in_the_cache(&a) || !can_choose(&a)) return BAD_INDEX;
    const Plan plan = plan_of(&a);
    const int64_t items = divide(&a, &plan, NULL);
    float *masses = calloc((size_t)(heads * parts + 1), sizeof(float));
    Item *item = malloc((size_t)items * sizeof(Item));
    int result = NO_MEMORY;
    if (masses && item) {
        divide(&a, &plan, item);
        result = attend_all(&a, &plan, item, items, masses);
    }
    if (result == DONE) add_masses(&a, masses);
    free(item);
    free(masses);
    return result;
}

#endif
