// SPDX-License-Identifier: GPL-2.0-or-later
/* Pages that processes map, and DMA mappings of memory. */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <rdma/ib_verbs.h>

#include "glue.h"

/* The longest piece of contiguous memory to ask for, as an order: 4 MiB. */
#define LARGEST_ORDER min(MAX_PAGE_ORDER, 10)
/* Up to this order, 64 KiB, the kernel may try hard. */
#define CHEAP_ORDER 4

/* ---- pages ---- */

/*
 * Adds the longest piece of contiguous memory that is available. The fewer
 * pieces there are, the shorter are the lists for the RDMA device.
 */
static bool add_piece(struct sd_pages *pages, unsigned long wanted)
{
	int order = min(ilog2(wanted), LARGEST_ORDER);

	for (; order >= 0; order--) {
		gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN |
			    (order > CHEAP_ORDER ? __GFP_NORETRY : __GFP_RETRY_MAYFAIL);
		struct page *page = alloc_pages(gfp, order);
		int i;

		if (!page)
			continue;
		/*
		 * Each page has its own reference count, because a process's mappings may outlive
		 * the device's use of the page.
		 */
		if (order)
			split_page(page, order);
		for (i = 0; i < 1 << order; i++)
			pages->pages[pages->count++] = page + i;
		return true;
	}
	return false;
}

static void free_pages_of(struct sd_pages *pages)
{
	unsigned long i;

	if (pages->start)
		vunmap(pages->start);
	for (i = 0; i < pages->count; i++)
		__free_page(pages->pages[i]);
	atomic64_sub(pages->length, &sd_bytes);
	kvfree(pages);
}

/*
 * Allocates zeroed pages, and maps them in the kernel at *start. Returns NULL
 * if memory is short.
 */
struct sd_pages *sdk_pages_new(size_t length, void **start)
{
	unsigned long wanted = PAGE_ALIGN(length) >> PAGE_SHIFT;
	struct sd_pages *pages;

	if (!wanted || wanted > INT_MAX / sizeof(struct page *))
		return NULL;
	pages = kvzalloc(struct_size(pages, pages, wanted), GFP_KERNEL_ACCOUNT);
	if (!pages)
		return NULL;
	kref_init(&pages->ref);
	pages->length = wanted << PAGE_SHIFT;
	atomic64_add(pages->length, &sd_bytes);
	while (pages->count < wanted)
		if (!add_piece(pages, wanted - pages->count))
			goto out;
	pages->start = vmap(pages->pages, wanted, VM_MAP, PAGE_KERNEL);
	if (!pages->start)
		goto out;
	*start = pages->start;
	return pages;
out:
	free_pages_of(pages);
	return NULL;
}

void sdk_pages_get(struct sd_pages *pages)
{
	kref_get(&pages->ref);
}

static void pages_release(struct kref *ref)
{
	free_pages_of(container_of(ref, struct sd_pages, ref));
}

void sdk_pages_put(void *pages)
{
	kref_put(&((struct sd_pages *)pages)->ref, pages_release);
}

int sd_pages_map(struct sd_pages *pages, struct vm_area_struct *vma)
{
	unsigned long count = vma_pages(vma);

	if (!(vma->vm_flags & VM_SHARED) || vma->vm_flags & VM_EXEC || count > pages->count)
		return -EINVAL;
	vm_flags_mod(vma, VM_DONTEXPAND | VM_DONTDUMP | VM_DONTCOPY, VM_MAYEXEC);
	return vm_insert_pages(vma, vma->vm_start, pages->pages, &count);
}

/* ---- DMA ---- */

/* Maps memory of any kind for the device of a connection. */
struct sd_map *sdk_map(struct sd_conn *conn, void *start, size_t length, s32 *error)
{
	struct ib_device *device = sd_conn_device(conn);
	unsigned int offset = offset_in_page(start);
	unsigned long i, count = PAGE_ALIGN(offset + length) >> PAGE_SHIFT;
	u8 *first = start - offset;
	struct page **pages;
	struct sd_map *map;

	*error = -ENOMEM;
	pages = kvmalloc_array(count, sizeof(*pages), GFP_KERNEL);
	map = kzalloc(sizeof(*map), GFP_KERNEL_ACCOUNT);
	if (!pages || !map)
		goto out;
	for (i = 0; i < count; i++) {
		u8 *page = first + (i << PAGE_SHIFT);

		pages[i] = is_vmalloc_addr(page) ? vmalloc_to_page(page) : virt_to_page(page);
	}
	map->conn = conn;
	map->length = length;
	*error = sg_alloc_table_from_pages_segment(&map->table, pages, count, offset, length,
						   min_t(size_t, ib_dma_max_seg_size(device), UINT_MAX & PAGE_MASK),
						   GFP_KERNEL_ACCOUNT);
	if (*error)
		goto out;
	*error = ib_dma_map_sgtable_attrs(device, &map->table, DMA_BIDIRECTIONAL, 0);
	if (*error) {
		sg_free_table(&map->table);
		goto out;
	}
	kvfree(pages);
	atomic_inc(&sd_maps);
	return map;
out:
	kvfree(pages);
	kfree(map);
	return NULL;
}

void sdk_unmap(struct sd_map *map)
{
	ib_dma_unmap_sgtable_attrs(sd_conn_device(map->conn), &map->table, DMA_BIDIRECTIONAL, 0);
	sg_free_table(&map->table);
	kfree(map);
	atomic_dec(&sd_maps);
}

/*
 * Finds the piece of a mapping that contains offset, and makes offset relative
 * to that piece.
 */
static struct scatterlist *find(const struct sd_map *map, u32 *offset, unsigned int *left)
{
	struct scatterlist *sg;
	unsigned int i;

	for_each_sgtable_dma_sg(&map->table, sg, i) {
		if (*offset < sg_dma_len(sg)) {
			*left = map->table.nents - i;
			return sg;
		}
		*offset -= sg_dma_len(sg);
	}
	return NULL;
}

/*
 * Fills sges from the beginning of a part, and shortens the part accordingly.
 * Returns the number of sges.
 */
int sd_map_sges(const struct sd_map *map, u32 lkey, u32 *offset, u32 *length, struct ib_sge *sges, u32 room)
{
	u32 within = *offset;
	unsigned int left;
	struct scatterlist *sg = find(map, &within, &left);
	int count = 0;

	while (sg && left-- && *length && count < room) {
		u32 piece = min(*length, sg_dma_len(sg) - within);

		sges[count++] = (struct ib_sge){ .addr = sg_dma_address(sg) + within, .length = piece, .lkey = lkey };
		*offset += piece;
		*length -= piece;
		within = 0;
		sg = sg_next(sg);
	}
	return count;
}

/*
 * Puts a part into a list of its own, in which only the DMA addresses and
 * lengths are set.
 */
int sd_map_part(const struct sd_map *map, u32 offset, u32 length, struct scatterlist *part, u32 room)
{
	unsigned int left;
	struct scatterlist *sg = find(map, &offset, &left);
	int count = 0;

	sg_init_table(part, room);
	while (sg && left-- && length) {
		u32 piece = min(length, sg_dma_len(sg) - offset);

		if (count == room)
			return -EMSGSIZE;
		sg_dma_address(part + count) = sg_dma_address(sg) + offset;
		sg_dma_len(part + count) = piece;
		count++;
		length -= piece;
		offset = 0;
		sg = sg_next(sg);
	}
	return length ? -EINVAL : count;
}

/* Hands a part to the processor or to the device. */
void sd_map_sync(const struct sd_map *map, u32 offset, u32 length, bool for_cpu)
{
	struct ib_device *device = sd_conn_device(map->conn);
	unsigned int left;
	struct scatterlist *sg;

	if (ib_uses_virt_dma(device))
		return;
	sg = find(map, &offset, &left);
	while (sg && left-- && length) {
		u32 piece = min(length, sg_dma_len(sg) - offset);

		if (for_cpu)
			ib_dma_sync_single_for_cpu(device, sg_dma_address(sg) + offset, piece, DMA_BIDIRECTIONAL);
		else
			ib_dma_sync_single_for_device(device, sg_dma_address(sg) + offset, piece, DMA_BIDIRECTIONAL);
		length -= piece;
		offset = 0;
		sg = sg_next(sg);
	}
}
