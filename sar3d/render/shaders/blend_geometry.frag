layout(location = 0) out vec3 out_normal;
layout(location = 1) out float out_depth;

void main() {
    if (base_color().a < surface.x || beyond_triangle()) discard;
    out_normal = facing_normal();
    out_depth = distance_ahead();
}
